/** Programs of others that run beside the product in benchmarks and in the quickstart: to their end, timed, with what they said when they failed. */
import { spawn, type ChildProcess } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import * as os from 'node:os';
import * as path from 'node:path';

export interface ProgramRun {
  readonly stdout: string;
  /** From its start to its end. */
  readonly seconds: number;
}

const programMsMax = 20 * 60_000;

/** Runs it without a shell. @throws Error with its last words when it fails. */
export async function runProgram(name: string, args: readonly string[]): Promise<ProgramRun> {
  const started = performance.now();
  const child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: programMsMax });
  const [out, err]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  const code = await ended(child);
  const seconds = (performance.now() - started) / 1000;
  if (code !== 0)
    throw new Error(`${name} ${args.join(' ')} ended with ${code}: ${Buffer.concat(err).toString().slice(-500)}`);
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
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;

  constructor(name: string, args: readonly string[]) {
    this.#child = spawn(name, args, { stdio: 'ignore' });
    this.#ended = ended(this.#child);
    this.#ended.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
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
