/**
 * Roles as child processes of the quickstart and of whole-product tests: started from the compiled tree, ended by process id, their CPU
 * time read from the operating system.
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

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one `tidemark` command to its end. */
export async function tidemark(
  args: readonly string[],
  options: { input?: string; echoErrors?: boolean } = {},
): Promise<CommandResult> {
  const child = spawn(process.execPath, [mainPath, ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
    if (options.echoErrors === true) process.stderr.write(chunk);
  });
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number>((resolve) => child.on('close', (status) => resolve(status ?? 255)));
  return { code, stdout, stderr };
}

/** As `tidemark`, and throws with what the command said when it failed. */
export async function tidemarkOk(args: readonly string[], options: { input?: string } = {}): Promise<string> {
  const result = await tidemark(args, options);
  if (result.code !== 0)
    throw new Error(`tidemark ${args.join(' ')} ended with ${result.code}: ${result.stderr.trim()}`);
  return result.stdout;
}

export interface Reachable {
  readonly what: string;
  readonly where: string;
}

export class RoleProcess {
  readonly name: string;
  /** Where the role can be reached, once it runs. Rejects when it ends before. */
  readonly running: Promise<readonly Reachable[]>;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number>;
  #over = false;

  /** Starts a role; its log goes to `logFile` (appended). */
  constructor(name: string, args: readonly string[], logFile: string) {
    this.name = name;
    const log = createWriteStream(logFile, { flags: 'a' });
    this.#child = spawn(process.execPath, [mainPath, ...args, '--json'], { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.stderr?.pipe(log, { end: false });
    const running = Promise.withResolvers<readonly Reachable[]>();
    this.running = running.promise;
    this.running.catch(() => undefined);
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

  /** User and system seconds of all its threads so far. */
  async cpuSeconds(): Promise<number> {
    if (this.#over) return 0;
    const text = await readFile(`/proc/${this.pid}/stat`, 'utf8').catch(() => '');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / clockTicksPerSecond;
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
