/**
 * Roles as child processes of the quickstart and of whole-product tests: started from the compiled tree, ended by process id, their CPU
 * time read from the operating system. What still runs when this process ends is ended with it.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** The compiled command line; this file lies in dist/scripts/demo/ or, under the test runner, in scripts/demo/. */
const mainPath = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? '../../dist/src/main.js' : '../../src/main.js', import.meta.url),
);
const clockTicksPerSecond = 100;
const commandMsMax = 120_000;

/** Children that were not seen to end yet, and how each is ended. */
const alive = new Map<ChildProcess, () => void>();

/** SIGKILL to everything this process started and did not see end. */
export function endChildren(): void {
  for (const end of alive.values()) end();
}
process.on('exit', endChildren);

/** From now on `child` does not outlive this process. `end`: how it is ended then. */
export function endWithUs(child: ChildProcess, end = (): void => void child.kill('SIGKILL')): void {
  alive.set(child, end);
  child.on('close', () => alive.delete(child));
}

/** Starts the compiled command line. Without settings of the caller's environment, which a product test must not depend on. */
function start(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
  within: readonly string[] = [],
): ChildProcess {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEMARK_'));
  const env = { ...Object.fromEntries(inherited), ...environment };
  const [program = process.execPath, ...words] = [...within, process.execPath, mainPath, ...args];
  const child = spawn(program, words, { stdio: ['pipe', 'pipe', 'pipe'], env });
  endWithUs(child);
  return child;
}

export interface CommandResult {
  /** Exit code; 255 when a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  /** For standard input. */
  readonly input?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** Killed after this many milliseconds; two minutes by default. */
  readonly timeoutMs?: number;
}

export type CommandRunner = (args: readonly string[], options?: CommandOptions) => Promise<CommandResult>;

/** Runs one `tidemark` command to its end. */
export const tidemark: CommandRunner = async (args, options = {}) => {
  const child = start(args, options.environment);
  let stdout = '';
  let stderr = '';
  child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  // A command that ends without reading its input is no failure of this program.
  child.stdin?.on('error', () => undefined);
  child.stdin?.end(options.input ?? '');
  const deadline = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? commandMsMax);
  const code = await new Promise<number>((resolve) => child.on('close', (status) => resolve(status ?? 255)));
  clearTimeout(deadline);
  return { code, stdout, stderr };
};

/** Runs with `run`, and throws with what the command said when it failed. */
export async function commandOk(
  run: CommandRunner,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const result = await run(args, options);
  if (result.code !== 0)
    throw new Error(`tidemark ${args.join(' ')} ended with ${result.code}: ${result.stderr.trim()}`);
  return result.stdout;
}

export interface Reachable {
  readonly what: string;
  readonly where: string;
}

async function cpuSecondsOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / clockTicksPerSecond;
}

export class RoleProcess {
  readonly name: string;
  /** Where the role can be reached, once it runs. Rejects when it ends before. */
  readonly running: Promise<readonly Reachable[]>;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number>;
  readonly #cpuAtStart: Promise<number>;
  #over = false;

  /** Starts a role; its log goes to `logFile` (appended). `within`: a command that becomes the one it is given. */
  constructor(name: string, args: readonly string[], logFile: string, within: readonly string[] = []) {
    this.name = name;
    const log = createWriteStream(logFile, { flags: 'a' });
    log.on('error', () => undefined);
    this.#child = start([...args, '--json'], {}, within);
    this.#child.stdin?.on('error', () => undefined);
    this.#child.stdin?.end();
    this.#child.stderr?.pipe(log, { end: false });
    const running = Promise.withResolvers<readonly Reachable[]>();
    this.running = running.promise;
    this.#cpuAtStart = this.running.then(
      () => cpuSecondsOf(this.pid),
      () => 0,
    );
    let stdout = '';
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
      try {
        running.resolve((JSON.parse(stdout) as { reachable: Reachable[] }).reachable);
      } catch {
        // Not whole yet.
      }
    });
    this.#exited = new Promise((resolve) => {
      this.#child.on('close', (code) => {
        this.#over = true;
        log.end();
        running.reject(new Error(`${name} ended with ${code ?? 'a signal'} before it ran; its log: ${logFile}`));
        resolve(code ?? 255);
      });
    });
  }

  /** Address of one of its listeners, `host:port` or a URL. */
  async where(what: string): Promise<string> {
    const found = (await this.running).find((each) => each.what === what);
    if (!found) throw new Error(`${this.name} does not say where its ${what} are`);
    return found.where;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get isOver(): boolean {
    return this.#over;
  }

  /** User and system seconds of all its threads since it runs: what it does; without the start of the program unless asked for. */
  async cpuSeconds({ withStart = false } = {}): Promise<number> {
    if (this.#over) return 0;
    return (await cpuSecondsOf(this.pid)) - (withStart ? 0 : await this.#cpuAtStart);
  }

  signal(name: 'SIGTERM' | 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void {
    if (!this.#over) this.#child.kill(name);
  }

  async exited(): Promise<number> {
    return this.#exited;
  }

  /** SIGTERM, then SIGKILL after `graceMs`. */
  async stop(graceMs = 10_000): Promise<number> {
    this.signal('SIGTERM');
    const timer = setTimeout(() => {
      this.signal('SIGKILL');
    }, graceMs);
    const code = await this.#exited;
    clearTimeout(timer);
    return code;
  }
}
