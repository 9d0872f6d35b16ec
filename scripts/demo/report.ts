/** What the quickstart found, for people. */
import type { CutOffFigures } from './cut-off.ts';
import type { FailoverFigures } from './failover.ts';
import type { ResyncFigures } from './lost-log.ts';

export interface ComparedPoint {
  readonly id: number;
  readonly cutTime: string;
  readonly identical: boolean;
  readonly proven: boolean;
  readonly root: string;
}

export interface Kill {
  readonly batchesBefore: number;
  readonly batchesAfter: number;
  readonly bytesResent: number;
}

export interface Figures {
  readonly bytesReplicated: number;
  readonly bytesOnWire: number;
  readonly compressionRatio: number;
  readonly seconds: number;
  readonly mbps: number;
  readonly cpuSecondsPerGB: { readonly agent: number; readonly processServer: number; readonly target: number };
  readonly kill: Kill;
}

export interface Resynced extends ResyncFigures {
  /** Until its point was committed. */
  readonly seconds: number;
}

export function failoverLine({ point, identical, rtoSeconds, said, accelerator }: FailoverFigures): string {
  const what = `test failover from point ${point}: its disk is ${identical ? 'identical' : 'NOT identical'}`;
  if (rtoSeconds === null) return `${what}; the machine was not started (no QEMU, or not an image of this demo)`;
  return `${what}; started in ${rtoSeconds} s (measured RTO, ${accelerator ?? ''}), it said: ${said ?? ''}`;
}

export function printTable(
  points: readonly ComparedPoint[],
  figures: Figures & { readonly cutOff: CutOffFigures },
  resynced: Resynced,
  failover: FailoverFigures | null,
): void {
  const { kill, cutOff, cpuSecondsPerGB: cpu } = figures;
  const lines = [
    '',
    'point  cut                       identical  proven  root',
    ...points.map(
      (point) =>
        `${String(point.id).padEnd(6)} ${point.cutTime}  ${String(point.identical).padEnd(9)}  ${String(point.proven).padEnd(6)}  ${point.root.slice(0, 16)}…`,
    ),
    '',
    `replicated ${(figures.bytesReplicated / 1e6).toFixed(0)} MB, ${(figures.bytesOnWire / 1e6).toFixed(0)} MB sealed on the wire (ratio ${figures.compressionRatio})`,
    `until the first point ${figures.seconds} s with the kill in it; CPU s/GB: agent ${cpu.agent}, process server ${cpu.processServer}, target ${cpu.target}`,
    `kill: ${kill.batchesBefore} batches before, ${kill.batchesAfter} after, ${kill.bytesResent} bytes sent again`,
    `target cut off for ${cutOff.seconds.toFixed(1)} s: ${(cutOff.spooledBytes / 1e6).toFixed(1)} MB and ${cutOff.pointsWaiting} points in the spool, status said "${cutOff.why}", drained ${cutOff.drainSeconds.toFixed(1)} s after it was back`,
    `change log deleted, ${resynced.blocksChanged} blocks changed: ${resynced.blocksHashed} hashed and compared, ${resynced.blocksSent} sent, point after ${resynced.seconds} s`,
    failover === null ? 'test failover: refused' : failoverLine(failover),
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
