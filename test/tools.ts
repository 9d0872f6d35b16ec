/**
 * Programs that tests use and nobody here wrote. Where `CI` is `true` a missing one fails the test file; elsewhere its tests are
 * skipped, and say so.
 *
 *   describe.skipIf(!requireTool('nbdinfo', 'qemu-img'))('…', …)
 */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import * as path from 'node:path';

function isInstalled(name: string): boolean {
  return (process.env['PATH'] ?? '').split(path.delimiter).some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Whether all named programs are there. With `CI=true` a missing one throws, so that the file fails. */
export function requireTool(...names: readonly string[]): boolean {
  const missing = names.filter((name) => !isInstalled(name));
  if (missing.length === 0) return true;
  const text = `${missing.join(', ')} not installed (Debian: postgresql qemu-utils libnbd-bin nbdkit e2fsprogs qemu-guest-agent fio rsync lz4 zstd strace mount prometheus)`;
  if (process.env['CI'] === 'true') throw new Error(`${text}; with CI=true that is a failure`);
  process.stderr.write(`SKIPPED tests: ${text}\n`);
  return false;
}

/** Whether this machine lets a test do `what`, which only root may; as `requireTool`. */
export function requireRoot(what: string): boolean {
  if (process.getuid?.() === 0) return true;
  if (process.env['CI'] === 'true') throw new Error(`${what} need root; with CI=true that is a failure`);
  process.stderr.write(`SKIPPED tests: ${what} need root\n`);
  return false;
}

export interface ToolResult {
  /** Exit code; null when a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end (without a shell) and keeps what it printed. Killed after `timeoutMs`. */
export function runTool(
  name: string,
  args: readonly string[],
  options: { readonly timeoutMs?: number; readonly cwd?: string } = {},
): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(name, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: options.timeoutMs ?? 30_000,
      killSignal: 'SIGKILL',
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() });
    });
  });
}

/** As `runTool`, but anything except exit code 0 throws with what the program said. Returns stdout. */
export async function runToolOk(
  name: string,
  args: readonly string[],
  options: { readonly timeoutMs?: number; readonly cwd?: string } = {},
): Promise<string> {
  const result = await runTool(name, args, options);
  if (result.code !== 0) {
    throw new Error(`${name} ${args.join(' ')} ended with ${result.code}\n${result.stdout}${result.stderr}`);
  }
  return result.stdout;
}
