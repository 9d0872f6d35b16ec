/** What fio does to a disk through NBD, and what it says about it. */
import { z } from 'zod';
import { runProgram } from '../demo/programs.ts';

export interface Speed {
  readonly mbps: number;
  readonly iops: number;
  /** Of one request as the writer sees it, without syncs. */
  readonly p99Ms: number;
}

export interface FioCase {
  readonly name: string;
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  readonly blockBytes: number;
  readonly depth: number;
  /** A sync after so many writes. */
  readonly fsync?: number;
  /** Also measured while replication is on. */
  readonly withReplication: boolean;
}

const large = { blockBytes: 262_144, depth: 16 };
const small = { blockBytes: 4_096, withReplication: false };

/** In the order they are run in: what dirties most comes last. */
export const fioCases: readonly FioCase[] = [
  { name: '256 KiB read', rw: 'read', ...large, withReplication: true },
  { name: '4 KiB random read, depth 1', rw: 'randread', ...small, depth: 1 },
  { name: '4 KiB random read, depth 16', rw: 'randread', ...small, depth: 16, withReplication: true },
  { name: '4 KiB random write, depth 1', rw: 'randwrite', ...small, depth: 1 },
  { name: '4 KiB random write, depth 16, sync after 64', rw: 'randwrite', ...small, depth: 16, fsync: 64 },
  { name: '4 KiB random write, depth 16', rw: 'randwrite', ...small, depth: 16, withReplication: true },
  { name: '256 KiB write, sync after 64', rw: 'write', ...large, fsync: 64, withReplication: false },
  { name: '256 KiB write', rw: 'write', ...large, withReplication: true },
];

export const quickFioCases: readonly FioCase[] = fioCases
  .filter(({ withReplication, rw }) => withReplication && rw !== 'read')
  .map((each) => ({ ...each, withReplication: each.rw.endsWith('write') }));

const measured = z.object({
  bw_bytes: z.number(),
  iops: z.number().positive(),
  clat_ns: z.object({ percentile: z.record(z.string(), z.number()) }),
});
/** Of the direction that did nothing there are no percentiles. */
const output = z.object({
  jobs: z.tuple([z.object({ error: z.literal(0), read: z.unknown(), write: z.unknown() })]),
});

/** Over the first `size` bytes of the disk, for `runMs`. @throws Error when fio failed or did nothing. */
export async function runFio(uri: string, each: FioCase, size: number, runMs: number): Promise<Speed> {
  const { rw, blockBytes, depth, fsync } = each;
  const { stdout } = await runProgram('fio', [
    ...['--name=run', '--ioengine=nbd', `--uri=${uri}`, `--rw=${rw}`, `--bs=${blockBytes}`, `--iodepth=${depth}`],
    ...[`--size=${size}`, '--time_based', `--runtime=${runMs}ms`, '--output-format=json'],
    ...(fsync === undefined ? [] : [`--fsync=${fsync}`]),
  ]);
  // Its NBD engine says on standard output, too, that it is connected.
  const [job] = output.parse(JSON.parse(stdout.slice(stdout.indexOf('{')))).jobs;
  const {
    bw_bytes: bytesPerSecond,
    iops,
    clat_ns: latency,
  } = measured.parse(rw.endsWith('read') ? job.read : job.write);
  const p99Ms = (latency.percentile['99.000000'] ?? Number.NaN) / 1e6;
  return { mbps: bytesPerSecond / 1e6, iops, p99Ms };
}
