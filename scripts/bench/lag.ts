/**
 * How long a write waits until it can not be lost any more: writes at a steady rate to a replicated machine, a point every second, syncs of the target
 * taking 10 ms. 20 MB/s on one disk and 54 MB/s on the three disks of one machine are what Azure Site Recovery publishes as its most; 200 MB/s on the same
 * three is tried where 54 held.
 *
 * The lag of a write is the time from its answer to when the agent was told that a point with it is durable. A point tells per disk how many writes it
 * contains, and at its cut none is under way, so the n-th answer to the only client of a disk belongs to the first point with at least n writes. Both
 * instants are read from the clock of this machine. What waits for an answer at the end of a rate counts to it.
 */
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { requireSpace } from '../demo/image.ts';
import type { LoggedPoint } from './agent-log.ts';
import { makeRealContent } from './content.ts';
import { writeSteadily } from './dirty-writer.ts';
import { RunningSite } from './running-site.ts';
import type { Run } from './section.ts';
import { modelledSyncMs, slowSync } from './slow-sync.ts';

export interface LagRow {
  /** Asked for, and what the disks took, MB/s of all disks together. */
  readonly mbps: number;
  readonly mbpsTaken: number;
  readonly disks: number;
  readonly seconds: number;
  readonly writes: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** Points that took the writes. */
  readonly points: number;
  /** Longest time a cut held writers, milliseconds; since the agent's start. */
  readonly heldMsMax: number;
  /** Whether the disks took what was asked for and p99 stayed within its goal. */
  readonly held: boolean;
}

export interface LagResult {
  /** What the target's syncs were made to take on top; null: `syncSkipped` says why they took what the disk of this machine takes. */
  readonly syncMs: number | null;
  readonly syncSkipped: string | null;
  readonly intervalSeconds: number;
  readonly p99MsGoal: number;
  readonly rates: readonly LagRow[];
}

interface Rate {
  readonly mbps: number;
  readonly disks: number;
}

const rates: readonly Rate[] = [
  { mbps: 20, disks: 1 },
  { mbps: 54, disks: 3 },
  { mbps: 200, disks: 3 },
];
const diskCount = 3;
const MiB = 1024 ** 2;
/** The size of request for which the ceilings are published. */
const writeBytes = 32_768;
const contentBytes = 16 * MiB;
const p99MsGoal = 2_500;
/** Below this share of a rate the disks did not take it. */
const shareTaken = 0.97;

/** Of ascending values. */
function percentile(values: readonly number[], share: number): number {
  return values[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;
}

/** Milliseconds, of every write to one disk, by the order of its answers; `before`: how many this client had made. */
export function lagsOf(
  points: readonly LoggedPoint[],
  disk: number,
  before: number,
  answeredMs: readonly number[],
): number[] {
  let at = 0;
  return answeredMs.map((answered, index) => {
    while (at < points.length && (points[at]?.writes[disk] ?? 0) <= before + index) at += 1;
    const point = points[at];
    if (!point) throw new Error('no point has a write that was said to be durable');
    return point.atMs - answered;
  });
}

class Lags {
  readonly #running: RunningSite;
  readonly #content: Buffer;
  /** Per disk: writes made so far. */
  readonly #writes = Array.from({ length: diskCount }, () => 0);

  constructor(running: RunningSite, content: Buffer) {
    this.#running = running;
    this.#content = content;
  }

  async measure({ mbps, disks }: Rate, seconds: number, seed: number): Promise<LagRow> {
    const running = this.#running;
    await running.calm();
    const pointsBefore = (await running.points()).length;
    const plan = { bytesPerSecond: mbps * 1e6, seconds, writeBytes, content: this.#content, seed };
    const { answeredMs, bytesPerSecond } = await writeSteadily(running.clients.slice(0, disks), plan);
    const before = [...this.#writes];
    for (const [disk, answers] of answeredMs.entries()) this.#writes[disk] = (before[disk] ?? 0) + answers.length;
    await running.durable(this.#writes);
    const points = (await running.points()).slice(pointsBefore);
    const lags = answeredMs
      .flatMap((answers, disk) => lagsOf(points, disk, before[disk] ?? 0, answers))
      .sort((a, b) => a - b);
    const [p50Ms, p99Ms, maxMs] = [percentile(lags, 0.5), percentile(lags, 0.99), percentile(lags, 1)];
    const heldSeconds = await running.site.metric('agent', 'tidemark_agent_writers_held_max_seconds');
    return {
      mbps,
      mbpsTaken: Number((bytesPerSecond / 1e6).toFixed(1)),
      disks,
      seconds,
      writes: lags.length,
      p50Ms,
      p99Ms,
      maxMs,
      points: points.length,
      heldMsMax: Number(((heldSeconds ?? Number.NaN) * 1000).toFixed(1)),
      held: bytesPerSecond >= mbps * 1e6 * shareTaken && p99Ms <= p99MsGoal,
    };
  }
}

/** @throws Error when something could not be measured. */
export async function measureLag({ directory, size, seed, quick, say }: Run): Promise<LagResult> {
  const bytes = Math.min(size, (quick ? 32 : 256) * MiB);
  await requireSpace(directory, bytes * diskCount * 5);
  const slow = await slowSync(modelledSyncMs);
  const disks = Array.from({ length: diskCount }, (_, index) => `disk${index}`).map((name) => ({
    name,
    image: path.join(directory, `${name}.raw`),
  }));
  for (const { image } of disks) await makeRealContent(image, bytes);
  const real = path.join(directory, 'real');
  await makeRealContent(real, contentBytes);
  say(`lag: replicating ${diskCount} disks of ${Math.round(bytes / MiB)} MiB`);
  const places = typeof slow === 'string' ? {} : { target: { address: '127.0.0.1', within: slow } };
  const running = await RunningSite.start(directory, disks, places);
  const rows: LagRow[] = [];
  try {
    const lags = new Lags(running, await readFile(real));
    for (const [index, rate] of rates.entries()) {
      if (rate.mbps > 54 && (quick || rows.at(-1)?.held !== true)) continue;
      say(`  ${rate.mbps} MB/s on ${rate.disks} disk${rate.disks === 1 ? '' : 's'}`);
      rows.push(await lags.measure(rate, quick ? 1 : 8, seed + index));
    }
  } finally {
    await running.stop();
  }
  const modelled = typeof slow !== 'string';
  return {
    syncMs: modelled ? modelledSyncMs : null,
    syncSkipped: modelled ? null : slow,
    intervalSeconds: 1,
    p99MsGoal,
    rates: rows,
  };
}

/** For people. */
export function lagLines(result: LagResult): string[] {
  const sync = result.syncMs === null ? `syncs not slowed: ${result.syncSkipped ?? ''}` : `sync ${result.syncMs} ms`;
  const line = (row: LagRow): string => {
    const goal = row.mbps === 20 ? ` (goal ${result.p99MsGoal})` : '';
    const where = `${row.mbps} MB/s on ${row.disks} disk${row.disks === 1 ? '' : 's'}`.padEnd(22);
    return `  ${where} taken ${row.mbpsTaken.toFixed(1)} MB/s  p50 ${row.p50Ms} ms  p99 ${row.p99Ms} ms${goal}  most ${row.maxMs} ms  ${row.points} points  writers held ${row.heldMsMax} ms at most${row.held ? '' : '  DID NOT HOLD'}`;
  };
  const last = rates.at(-1);
  const left = last && !result.rates.some(({ mbps }) => mbps === last.mbps) ? [last.mbps] : [];
  return [
    `from a write's answer to its durable point, a point every ${result.intervalSeconds} s, ${sync}:`,
    ...result.rates.map(line),
    ...left.map((mbps) => `  ${mbps} MB/s not tried: the rate before did not hold`),
  ];
}
