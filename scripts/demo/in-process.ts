/**
 * `tidemark <command>` inside this process: the whole command line with the real parts behind it, without the half second of a processor that a
 * program takes to start. What a command prints and its exit code are those of the program. For what is neither measured nor able to end the process:
 * commands that read damaged files run as programs (`process.ts`) instead.
 */
import { Readable, Writable } from 'node:stream';
import { runCommandLine } from '../../src/cli/program.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { readText } from '../../src/main/read-text.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { CommandRunner } from './process.ts';

function sink(): { stream: Writable; text: () => string } {
  let text = '';
  const stream = new Writable({
    decodeStrings: false,
    write(chunk, _encoding, done) {
      text += String(chunk);
      done();
    },
  });
  return { stream, text: () => text };
}

/** `version`: what the command line says it is. */
export function inProcess(version: string): CommandRunner {
  const roles = composeRoles(version);
  return async (args, options = {}) => {
    const out = sink();
    const err = sink();
    const code = await runCommandLine(args, {
      roles,
      version,
      terminal: {
        stdout: out.stream,
        stderr: err.stream,
        stdoutIsTerminal: false,
        stderrIsTerminal: false,
        colour: false,
      },
      environment: options.environment ?? {},
      clock: systemClock,
      readText: (file) => readText(posixFiles, Readable.from([options.input ?? '']), file),
      ask: () => Promise.resolve(null),
      onSignal: () => () => undefined,
    });
    return { code, stdout: out.text(), stderr: err.text() };
  };
}
