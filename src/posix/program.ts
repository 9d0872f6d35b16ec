/**
 * Starting a program and being sure of its end: a process group of its own, a clean environment, no shell, a deadline. What it wrote to
 * stderr last is kept for the message; stdout is nobody's.
 *
 * Invariants:
 *  1. When `run` resolves the program has ended, or was sent SIGKILL and still did not end (it hangs in the kernel): `gone` says which.
 *  2. A program that is not let end by itself (deadline, abort) takes its whole group with it: SIGTERM to all, SIGKILL to what is left after
 *     the grace. One that ends by itself may leave children behind; that is its own affair.
 */
import { spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import type { Clock } from '../kit/clock.ts';
import { messageOf, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';

export interface ProgramRun {
  /** Absolute. */
  readonly path: string;
  readonly args?: readonly string[];
  /** All of its environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** Between SIGTERM and SIGKILL, and how long the end after SIGKILL is waited for. */
  readonly graceMs: number;
  /** Ends it before its deadline. */
  readonly signal: AbortSignal;
  readonly clock: Clock;
}

export type ProgramEnd =
  | { readonly kind: 'exited'; readonly code: number; readonly ms: number; readonly said: string }
  /** By a signal that was not ours. */
  | { readonly kind: 'killed'; readonly signal: string; readonly ms: number; readonly said: string }
  | { readonly kind: 'not-started'; readonly reason: string }
  | { readonly kind: 'ended'; readonly why: 'deadline' | 'abort'; readonly gone: boolean; readonly said: string };

type Exit = { readonly code: number | null; readonly signal: string | null } | { readonly failed: Error };

/** Why `path` can not be run by this process, or null. */
export async function whyNotExecutable(path: string): Promise<string | null> {
  try {
    if (!(await stat(path)).isFile()) return 'is not a file';
    await access(path, constants.X_OK);
    return null;
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return 'does not exist';
    return code === 'EACCES' ? 'is not executable' : `can not be looked at (${messageOf(error)})`;
  }
}

/** Never rejects. */
export async function runProgram(run: ProgramRun): Promise<ProgramEnd> {
  const { clock, signal } = run;
  if (signal.aborted) return { kind: 'not-started', reason: 'the agent is stopping' };
  const startedMs = clock.monotonicMs();
  const child = spawn(run.path, run.args ?? [], {
    cwd: '/',
    env: run.environment,
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  const said = tailOf(child);
  const ended = endOf(child);
  const first = await withDeadline(run, ended);
  // What it wrote right before its end may still be on its way.
  await clock.turn();
  child.stderr.destroy();
  if (first === 'deadline' || first === 'abort')
    return { kind: 'ended', why: first, gone: await endGroup(run, child, ended), said: said() };
  if ('failed' in first) return { kind: 'not-started', reason: messageOf(first.failed) };
  const ms = clock.monotonicMs() - startedMs;
  if (first.code !== null) return { kind: 'exited', code: first.code, ms, said: said() };
  return { kind: 'killed', signal: first.signal ?? 'a signal', ms, said: said() };
}

function endOf(child: ChildProcess): Promise<Exit> {
  return new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      resolve({ code, signal });
    });
    child.on('error', (failed) => {
      if (child.pid === undefined) resolve({ failed });
    });
  });
}

/** The last of what it wrote to stderr, on one line. */
function tailOf(child: ChildProcessByStdio<null, null, Readable>): () => string {
  let tail = '';
  child.stderr.setEncoding('utf8');
  child.stderr.on('error', () => undefined);
  child.stderr.on('data', (piece: string) => {
    tail = (tail + piece).slice(-limits.posix.programSaidCharsMax);
  });
  return () => tail.trim().replaceAll(/\s+/g, ' ');
}

async function withDeadline({ clock, signal, timeoutMs }: ProgramRun, ended: Promise<Exit>) {
  const over = Promise.withResolvers<'deadline' | 'abort'>();
  const abort = (): void => {
    over.resolve('abort');
  };
  const timer = clock.after(timeoutMs, () => {
    over.resolve('deadline');
  });
  signal.addEventListener('abort', abort);
  try {
    return await Promise.race([ended, over.promise]);
  } finally {
    timer.cancel();
    signal.removeEventListener('abort', abort);
  }
}

/** Whether the program itself has ended. */
async function endGroup({ clock, graceMs }: ProgramRun, child: ChildProcess, ended: Promise<Exit>): Promise<boolean> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal);
    } catch {
      // Nobody of the group is left.
    }
    const grace = new AbortController();
    const gone = ended.then(() => true);
    const late = clock.sleep(graceMs, grace.signal).then(
      () => false,
      () => false,
    );
    const done = await Promise.race([gone, late]);
    grace.abort();
    if (done && signal === 'SIGKILL') return true;
  }
  return false;
}
