/**
 * The peer of a resync: rsync with its delta transfer, both its processes on this machine with a socket pair between them; no encryption, nothing
 * made durable, nothing kept of the past. `--no-whole-file` because between local paths it would copy everything otherwise.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { firstDifference } from '../demo/compare.ts';
import { cpuSecondsOf } from './cpu.ts';

export interface PeerRun {
  readonly seconds: number;
  /** What its processes told each other, by its own count. */
  readonly bytesOnWire: number;
  /** User and system, all its processes. */
  readonly cpuSeconds: number;
}

const rsyncMsMax = 20 * 60_000;

/** Ways to run it: its defaults, and as well as it can for this: our block size, its fastest checksum. */
export const rsyncWays: readonly { readonly name: string; readonly args: readonly string[] }[] = [
  { name: 'rsync', args: [] },
  { name: 'rsync -B 65536 --cc=xxh128', args: ['-B', '65536', '--cc=xxh128'] },
];

async function run(args: readonly string[]): Promise<string> {
  const child = spawn('rsync', args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: rsyncMsMax });
  const ended = new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      resolve(code ?? constants.signals.SIGTERM);
    });
  });
  const [out, err]: Buffer[][] = [[], []];
  child.stdout.on('data', (chunk: Buffer) => out?.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err?.push(chunk));
  const code = await ended;
  const text = (parts: Buffer[] | undefined): string => Buffer.concat(parts ?? []).toString();
  if (code !== 0) throw new Error(`rsync ${args.join(' ')} ended with ${code}: ${text(err)}`);
  return text(out);
}

/** First line of what it says about itself; null where there is none. */
export async function rsyncVersion(): Promise<string | null> {
  return run(['--version']).then(
    (text) => text.split('\n')[0]?.trim() ?? '',
    () => null,
  );
}

function statistic(text: string, name: string): number {
  const match = new RegExp(`^${name}: ([\\d,.]+)`, 'm').exec(text);
  if (!match?.[1]) throw new Error(`rsync did not say its ${name}`);
  return Number(match[1].replace(/[,.]/g, ''));
}

/** Makes `to` what `from` is, and checks that it is. No other child of this process may end meanwhile. */
export async function runRsync(way: readonly string[], from: string, to: string): Promise<PeerRun> {
  const { waited: cpuBefore } = await cpuSecondsOf('self');
  const started = performance.now();
  const text = await run(['--inplace', '--no-whole-file', '--ignore-times', '--stats', ...way, from, to]);
  const seconds = (performance.now() - started) / 1000;
  const cpuSeconds = (await cpuSecondsOf('self')).waited - cpuBefore;
  const difference = await firstDifference(from, to);
  if (difference !== null) throw new Error(`after rsync ${way.join(' ')} the copy differs from byte ${difference} on`);
  const bytesOnWire = statistic(text, 'Total bytes sent') + statistic(text, 'Total bytes received');
  return { seconds, bytesOnWire, cpuSeconds };
}
