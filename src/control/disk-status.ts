/** One disk: how new its newest point is, whether it is being compared, and why its health is what it is. */
import { durationText } from '../kit/figures.ts';
import { localTimeIn } from '../kit/local-time.ts';
import { limits } from '../limits.ts';
import { because, worst } from './reasons.ts';
import type { AgentReport } from './report-schemas.ts';
import { rpoActual } from './rpo.ts';
import type { StoredResync } from './schemas.ts';
import type { Sources } from './sources.ts';
import { stageRemedies } from './stage.ts';
import type { Forecast, Reason, Stage, StatusReport } from './status-schemas.ts';

const { rpoWarningIntervals, rpoGraceMs, proofGraceMs } = limits.control;

type DiskStatus = StatusReport['machines'][number]['disks'][number];
type ReportedDisk = AgentReport['disks'][number];

/** What is known of a machine, and by whom; what is the same for all its disks. */
export interface Machinery {
  readonly nowMs: number;
  /** RPO target and interval, seconds. */
  readonly target: number | null;
  readonly interval: number | null;
  readonly agent: ReturnType<Sources['agents']['get']>;
  readonly held: ReturnType<Sources['replicas']['get']>;
  readonly asked: StoredResync | undefined;
}

/** Cut times of the newest points of a disk. */
export interface NewestPoints {
  readonly committedMs: number | null;
  readonly provenMs: number | null;
}

export function newestPointsOf(name: string, held: Machinery['held']): NewestPoints {
  const replica = held?.report.disks.find((disk) => disk.name === name);
  return { committedMs: replica?.committed?.cutTimeMs ?? null, provenMs: replica?.proven?.cutTimeMs ?? null };
}

/** Not late by the RPO target, but by the interval: something is slower than it should be. */
export function isBehind({ interval }: Pick<Machinery, 'interval'>, age: number | null): boolean {
  return age !== null && interval !== null && age > rpoWarningIntervals * interval + rpoGraceMs / 1000;
}

function* recency(of: Machinery, { committedMs, provenMs }: NewestPoints, age: number | null, stage: Stage | null) {
  if (committedMs === null || age === null) {
    yield because('no-point', 'no recovery point is committed yet');
    return;
  }
  const is = `the newest committed point is ${durationText(age)} old`;
  const binds = stage === null ? '' : `; what binds: ${stage.name} (${stage.why})`;
  const remedy = stage === null ? undefined : stageRemedies[stage.name];
  if (of.target !== null && age > of.target)
    yield because('rpo-breached', `${is}, the RPO target is ${durationText(of.target)}${binds}`, remedy);
  else if (isBehind(of, age))
    yield because('behind', `${is}, the interval is ${durationText(of.interval ?? 0)}${binds}`, remedy);
  // Where nothing is proven yet, the commit's own age counts: a point committed just now can not be proven.
  const unprovenMs = provenMs === null ? age * 1000 : committedMs - provenMs;
  if (unprovenMs > proofGraceMs) yield because('unproven', 'newer points are committed but not proven');
}

function resyncOf(seen: ReportedDisk | undefined, asked: boolean): DiskStatus['resync'] {
  if (seen?.resync) {
    const { doneBytes, totalBytes } = seen.resync;
    return { ...seen.resync, percent: Math.floor((100 * Math.min(doneBytes, totalBytes)) / Math.max(totalBytes, 1)) };
  }
  if (!asked) return null;
  const totalBytes = seen?.size ?? 0;
  return { reason: 'requested', phase: 'asked', doneBytes: 0, totalBytes, opensAtMs: null, timeZone: null, percent: 0 };
}

/** The clock of the window's zone; UTC where this runtime does not know that zone. */
function windowText(ms: number, timeZone: string | null): string {
  try {
    return localTimeIn(timeZone ?? 'UTC').text(ms);
  } catch {
    return localTimeIn('UTC').text(ms);
  }
}

/** Never `ok` while a disk's blocks are suspect: its replica may differ, and the next point waits for the comparison. */
function* resyncReasons(name: string, resync: DiskStatus['resync']) {
  if (resync === null) return;
  const { phase, reason, opensAtMs, timeZone, percent } = resync;
  if (phase === 'asked') yield because('resync-asked', `the resync of disk ${name} that was asked for has not begun`);
  else if (phase === 'waiting') {
    const until = opensAtMs === null ? '' : ` until ${windowText(opensAtMs, timeZone)}`;
    yield because('resync-waiting', `the resync of disk ${name} (${reason}) waits${until}`);
  } else yield because('resync', `every block of disk ${name} is compared (${reason}): ${phase}, ${percent} %`);
}

/** @param problems what roles say of this disk. @param flow of its machine, whose cycles carry all its disks. */
export function judgeDisk(
  name: string,
  of: Machinery,
  problems: readonly Reason[],
  flow: { readonly stage: Stage | null; readonly forecast: Forecast | null },
): DiskStatus {
  const seen = of.agent?.report.disks.find((disk) => disk.name === name);
  const replica = of.held?.report.disks.find((disk) => disk.name === name);
  const newest = newestPointsOf(name, of.held);
  const age = rpoActual(of.nowMs, newest.committedMs, of.held?.receivedMs ?? null);
  const resync = resyncOf(seen, of.asked?.disks.some((disk) => disk.name === name) ?? false);
  const reasons = [...problems, ...recency(of, newest, age, flow.stage), ...resyncReasons(name, resync)];
  if (of.agent && !seen) reasons.push(because('disk-not-captured', `the agent does not capture disk ${name}`));
  return {
    name,
    size: seen?.size ?? replica?.size ?? null,
    phase: seen?.phase ?? null,
    resync,
    health: worst(reasons),
    reasons,
    rpoTargetSeconds: of.target,
    rpoIntervalSeconds: of.interval,
    rpoActualSeconds: age,
    newestCommittedMs: newest.committedMs,
    newestProvenMs: newest.provenMs,
    lagBytes: seen?.lagBytes ?? null,
    ...flow,
  };
}
