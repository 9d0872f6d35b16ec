/**
 * `tidemark <command>` inside the test's own process: the whole command line with the real parts behind it, without the half second
 * a program takes to start. What a command prints and its exit code are those of the program. Commands that read damaged files run as
 * programs (`scripts/demo/process.ts`) instead.
 */
import { Readable, Writable } from 'node:stream';
import type { CommandRunner } from '../../scripts/demo/process.ts';
import { runCommandLine } from '../../src/cli/program.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { readText } from '../../src/main/read-text.ts';
import { posixFiles } from '../../src/posix/files.ts';

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

const roles = composeRoles('0.0.0-test');

export const command: CommandRunner = async (args, options = {}) => {
  const out = sink();
  const err = sink();
  const code = await runCommandLine(args, {
    roles,
    version: '0.0.0-test',
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
