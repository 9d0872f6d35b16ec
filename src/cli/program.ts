/**
 * `tidemark <command>`: one file per command under `commands/`. A command parses, calls one of the roles (`roles.ts`) and prints
 * what came back; it holds no logic. This file puts them together and turns every way to end into an exit code.
 */
import { Command, CommanderError } from 'commander';
import { type ExitName, exitCodes } from '../fatal.ts';
import { addAgent } from './commands/agent.ts';
import { addControl } from './commands/control.ts';
import { addEnroll } from './commands/enroll.ts';
import { addExport } from './commands/export.ts';
import { addFailover } from './commands/failover.ts';
import { addKey } from './commands/key.ts';
import { addMove } from './commands/move.ts';
import { addNbd } from './commands/nbd.ts';
import { addPause, addResume } from './commands/pause.ts';
import { addPoints } from './commands/points.ts';
import { addProcessServer } from './commands/process-server.ts';
import { addProcessServers } from './commands/process-servers.ts';
import { addProtect } from './commands/protect.ts';
import { addRelease } from './commands/release.ts';
import { addResync } from './commands/resync.ts';
import { addStatus } from './commands/status.ts';
import { addTarget } from './commands/target.ts';
import { addToken } from './commands/token.ts';
import { addUnprotect } from './commands/unprotect.ts';
import { addUp } from './commands/up.ts';
import { addVerify } from './commands/verify.ts';
import { addVersion } from './commands/version.ts';
import type { CliContext } from './context.ts';
import { exitCodeTable, printProblem } from './output.ts';

/** In the order in which `--help` lists them. */
const commands = [
  ...[addUp, addControl, addProcessServer, addTarget, addAgent],
  ...[addToken, addEnroll, addKey, addProtect, addUnprotect, addStatus],
  ...[addPause, addResume, addResync, addMove, addProcessServers, addRelease],
  ...[addPoints, addExport, addNbd, addFailover, addVerify, addVersion],
];

export function buildProgram(context: CliContext): Command {
  const { stdout, stderr, stdoutIsTerminal, stderrIsTerminal, colour } = context.terminal;
  const program = new Command('tidemark')
    .description("Keeps a second, provably identical copy of running machines' disks somewhere else.")
    .version(context.version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => stdout.write(text),
      writeErr: (text) => stderr.write(text),
      getOutHasColors: () => stdoutIsTerminal && colour,
      getErrHasColors: () => stderrIsTerminal && colour,
    })
    .addHelpText('after', exitCodeTable());
  for (const add of commands) add(program, context);
  return program;
}

/**
 * Runs one command line.
 * @param words without the program's own name.
 * @returns the exit code; the caller ends the process with it, whatever still runs.
 */
export async function runCommandLine(
  words: readonly string[],
  surroundings: Omit<CliContext, 'exitWith'>,
): Promise<number> {
  let exit: ExitName = 'ok';
  const program = buildProgram({ ...surroundings, exitWith: (name) => (exit = name) });
  try {
    await program.parseAsync(words, { from: 'user' });
    return exitCodes[exit].code;
  } catch (error) {
    // Commander has printed its message, with the nearest valid word; its code is 0 for help and version.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok.code : exitCodes.usage.code;
    return printProblem(surroundings.terminal, error);
  }
}
