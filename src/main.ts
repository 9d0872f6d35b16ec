#!/usr/bin/env node
/**
 * The program: plugs the real parts into the command line and ends the process with the code it gives. The only place that
 * does either. Ways to end stand in `fatal.ts`.
 */
import { createInterface } from 'node:readline/promises';
import manifest from '../package.json' with { type: 'json' };
import { printProblem, type Terminal } from './cli/output.ts';
import { runCommandLine } from './cli/program.ts';
import { systemClock } from './kit/clock.ts';
import { systemCode } from './kit/problem.ts';
import { composeRoles } from './main/compose.ts';
import { readText } from './main/read-text.ts';
import { posixFiles } from './posix/files.ts';

const { stdin, stdout, stderr, env } = process;
const terminal: Terminal = {
  stdout,
  stderr,
  stdoutIsTerminal: stdout.isTTY,
  stderrIsTerminal: stderr.isTTY,
  colour: (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb',
  size: () => (stdout.isTTY ? { columns: stdout.columns, rows: stdout.rows } : undefined),
};

function onSignal(listener: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, listener);
  return () => {
    for (const signal of signals) process.off(signal, listener);
  };
}

async function ask(question: string): Promise<string | null> {
  if (!stdin.isTTY) return null;
  const lines = createInterface({ input: stdin, output: stderr });
  try {
    return await lines.question(question);
  } finally {
    lines.close();
  }
}

// Somebody who reads only the head of the output (`tidemark points | head`) is no error.
stdout.on('error', (error: Error) => {
  if (systemCode(error) !== 'EPIPE') throw error;
});
process.on('uncaughtException', (error) => process.exit(printProblem(terminal, error)));

process.exit(
  await runCommandLine(process.argv.slice(2), {
    roles: composeRoles(manifest.version),
    version: manifest.version,
    terminal,
    environment: env,
    clock: systemClock,
    readText: (file) => readText(posixFiles, stdin, file),
    ask,
    onSignal,
  }),
);
