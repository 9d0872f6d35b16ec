/** Starting a program that outlives us: a session of its own, no terminal, what it says appended to a file. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { messageOf } from '../kit/problem.ts';

export interface DetachedProgram {
  /** 0: it could not be started. */
  readonly pid: number;
  /** How it ended, in words, if it does while we are there; never rejects, and keeps nobody alive. */
  readonly ended: Promise<string>;
}

/** @param words of the program, absolute paths. @param said file that takes its output, made with mode 0600. */
export function startDetached(program: string, words: readonly string[], said: string): DetachedProgram {
  const log = openSync(said, 'a', 0o600);
  try {
    const child = spawn(program, words, { cwd: '/', detached: true, stdio: ['ignore', log, log] });
    const ended = new Promise<string>((resolve) => {
      child.on('error', (error) => {
        resolve(messageOf(error));
      });
      child.on('exit', (code, signal) => {
        resolve(signal ?? `exit code ${code}`);
      });
    });
    child.unref();
    return { pid: child.pid ?? 0, ended };
  } finally {
    closeSync(log);
  }
}
