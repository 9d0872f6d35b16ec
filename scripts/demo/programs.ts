/** Programs of others that run beside the product in benchmarks and in the quickstart: to their end, timed, with what they said when they failed. */
import { spawn, type ChildProcess } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import * as os from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { endWithUs } from './process.ts';

export interface ProgramRun {
  readonly stdout: string;
  /** From its start to its end. */
  readonly seconds: number;
}

const programMsMax = 20 * 60_000;
const untilMsMax = 30_000;
const untilPollMs = 20;
const stopMsMax = 5_000;
const lastWordsMax = 500;

/** Each in a process group of its own, so that what it starts ends with it. */
function begin(name: string, args: readonly string[], stdout: 'pipe' | 'ignore'): Begun {
  const child = spawn(name, args, { stdio: ['ignore', stdout, 'pipe'], detached: true });
  const kill = (): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // Gone already.
    }
  };
  endWithUs(child, kill);
  let words = '';
  child.stderr?.on('data', (chunk: Buffer) => (words = (words + chunk.toString()).slice(-lastWordsMax)));
  return { child, kill, ended: ended(child), lastWords: () => words };
}

interface Begun {
  readonly child: ChildProcess;
  readonly kill: () => void;
  /** Its exit code. Rejects when it could not be started. */
  readonly ended: Promise<number>;
  readonly lastWords: () => string;
}

/** Runs it without a shell. @throws Error with its last words when it fails. */
export async function runProgram(name: string, args: readonly string[]): Promise<ProgramRun> {
  const started = performance.now();
  const { child, kill, ended: end, lastWords } = begin(name, args, 'pipe');
  const deadline = setTimeout(kill, programMsMax);
  const out: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  const code = await end.finally(() => {
    clearTimeout(deadline);
  });
  const seconds = (performance.now() - started) / 1000;
  if (code !== 0) throw new Error(`${name} ${args.join(' ')} ended with ${code}: ${lastWords()}`);
  return { stdout: Buffer.concat(out).toString(), seconds };
}

/** Those of the names that are not in the PATH. */
export async function missingPrograms(...names: readonly string[]): Promise<string[]> {
  const directories = (process.env['PATH'] ?? '').split(path.delimiter);
  const isThere = async (name: string): Promise<boolean> => {
    const tries = directories.map((directory) => access(path.join(directory, name), constants.X_OK));
    return (await Promise.allSettled(tries)).some(({ status }) => status === 'fulfilled');
  };
  const found = await Promise.all(names.map(isThere));
  return names.filter((_, index) => found[index] !== true);
}

/** A server of others; ends with `stop`. */
export class Server {
  readonly #name: string;
  readonly #begun: Begun;
  #over = false;

  constructor(name: string, args: readonly string[]) {
    this.#name = name;
    this.#begun = begin(name, args, 'ignore');
    const over = (): void => void (this.#over = true);
    this.#begun.ended.then(over, over);
  }

  /** Of the process; 0 when it could not be started. */
  get pid(): number {
    return this.#begun.child.pid ?? 0;
  }

  /** Waits until it is so far, such as that it serves. @throws Error with its last words when it ended instead. */
  async until(what: string, holds: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + untilMsMax;
    while (!(await holds())) {
      if (this.#over) throw new Error(`${this.#name} ended instead of ${what}: ${this.#begun.lastWords()}`);
      if (performance.now() > end) throw new Error(`${this.#name} is not ${what} after ${untilMsMax / 1000} s`);
      await systemClock.sleep(untilPollMs);
    }
  }

  /** SIGTERM, then SIGKILL: some forget a signal that comes while they begin. */
  async stop(): Promise<void> {
    if (!this.#over) this.#begun.child.kill('SIGTERM');
    const deadline = setTimeout(this.#begun.kill, stopMsMax);
    await this.#begun.ended.finally(() => {
      clearTimeout(deadline);
    });
  }
}

function ended(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      resolve(code ?? 128 + (signal === null ? 0 : os.constants.signals[signal]));
    });
  });
}
