/**
 * A program that runs beside us for as long as we want it, and is talked to: its standard output, and any number of channels that are sockets
 * from the start (descriptor 3, 4, …), so that nobody listens anywhere and no file of a socket is left behind. `program.ts` is for programs
 * that are waited for.
 *
 * Invariants:
 *  1. It does not outlive us by more than it takes the kernel to end it: `end` ends it by signals, and when we are killed, by whatever, the kernel
 *     sends it SIGKILL (PR_SET_PDEATHSIG, prctl(2)). Only a process can ask for that itself, so `setpriv` (util-linux) does before it becomes the
 *     program; a shell looks after that whether we are still there, since of a death before nobody is told. Without `setpriv` nothing is started.
 *  2. `end` resolves whether the program is gone or not: one that hangs in the kernel is left to it, and keeps us from nothing.
 */
import { spawn } from 'node:child_process';
import type { Duplex, Readable } from 'node:stream';
import type { Clock } from '../kit/clock.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { whyNotExecutable } from './program.ts';

/** Where programs are looked for; all of its environment. */
const searchPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
const setpriv = 'setpriv';
const shell = '/bin/sh';

export interface RunningProgram {
  readonly output: Readable;
  readonly channels: readonly Duplex[];
  /** How it ended, in words; never rejects. A program that could not be started has ended too. */
  readonly ended: Promise<string>;
  /** What it wrote to stderr last, on one line. */
  said(): string;
  /** Idempotent. Whether it is gone. */
  end(): Promise<boolean>;
}

export interface ProgramToRun {
  /** A name, or an absolute path. */
  readonly program: string;
  readonly args: readonly string[];
  readonly channels: number;
  readonly clock: Clock;
}

/** @throws Problem `not-found`: it, or `setpriv`, is not installed. */
export async function startProgram({ program, args, channels, clock }: ProgramToRun): Promise<RunningProgram> {
  const { file, starter } = await findStartable(program);
  const child = spawn(starter, [...tied(process.pid), file, ...args], {
    cwd: '/',
    env: { PATH: searchPath.join(':') },
    stdio: ['ignore', 'pipe', 'pipe', ...Array.from({ length: channels }, () => 'pipe' as const)],
  });
  const { stdout, stderr } = child;
  const sockets = child.stdio.slice(3) as Duplex[];
  if (!stdout || !stderr) throw new Error('started without pipes');
  let said = '';
  stderr.setEncoding('utf8');
  stderr.on('data', (piece: string) => {
    said = (said + piece).slice(-limits.posix.programSaidCharsMax);
  });
  // Whoever reads or writes a stream whose other end is gone hears of it by `ended`.
  for (const stream of [stdout, stderr, ...sockets]) stream.on('error', () => undefined);
  let over = false;
  const ended = new Promise<string>((resolve) => {
    const is = (how: string): void => {
      over = true;
      // What it wrote right before its end may still be on its way.
      void clock.turn().then(() => resolve(how));
    };
    child.on('exit', (code, signal) => {
      is(signal === null ? `ended with ${code ?? 0}` : `was ended by ${signal}`);
    });
    child.on('error', (error) => {
      if (child.pid === undefined) is(`could not be started (${messageOf(error)})`);
    });
  });
  const end = async (): Promise<boolean> => {
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (over) break;
      child.kill(signal);
      const late = new AbortController();
      const grace = clock.sleep(limits.posix.programGraceMs, late.signal).catch(() => undefined);
      await Promise.race([ended, grace]);
      late.abort();
    }
    for (const stream of [stdout, stderr, ...sockets]) stream.destroy();
    child.unref();
    return over;
  };
  return { output: stdout, channels: sockets, ended, said: () => said.trim().replaceAll(/\s+/g, ' '), end };
}

/**
 * Words of `setpriv` that tie the program behind them to its parent (invariant 1). Without new privileges, since the kernel forgets the wish when
 * a program gains some.
 */
function tied(parent: number): string[] {
  const whenThere = `[ "$PPID" = ${parent} ] && exec "$0" "$@"`;
  return ['--no-new-privs', '--pdeathsig', 'KILL', '--', shell, '-c', whenThere];
}

/** What can be known before it is started. @throws Problem `not-found`: it, or `setpriv`, is not installed. */
export async function findStartable(program: string): Promise<{ readonly file: string; readonly starter: string }> {
  return {
    file: await find(program, 'install it, or name its file'),
    starter: await find(setpriv, 'install it (Debian: util-linux): it ties programs to us'),
  };
}

async function find(program: string, remedy: string): Promise<string> {
  const files = program.startsWith('/') ? [program] : searchPath.map((directory) => `${directory}/${program}`);
  for (const file of files) if ((await whyNotExecutable(file)) === null) return file;
  throw new Problem('not-found', `there is no program ${program}`, { remedy });
}
