/**
 * From one ceiling for the whole process, the bounds of its parts. What an agent holds is bounded with or without a ceiling
 * (`limits.ts`); a ceiling makes the large bounds smaller, down to what the product can not work without, and below that it is refused.
 *
 * What is counted: the runtime with its code; read-ahead and batches of the sender; per disk the change log's tables and, where it is
 * served, requests in flight of one client, request memory kept for the next ones, and old pages of a cut. A second client of a disk may add
 * as much in flight again.
 */
import { Problem } from '../kit/problem.ts';
import { limits, MiB } from '../limits.ts';

export interface MemoryPlan {
  /** Old pages of a cut kept in memory, per disk; what is beyond goes to the scratch file. */
  readonly copyBeforeWriteBytes: number;
  /** Data of requests in flight, per client of a disk. */
  readonly nbdInFlightBytes: number;
  /** Request memory kept for the next requests, per disk. */
  readonly nbdPoolBytes: number;
}

const { nbd, capture, agent } = limits;

/** Without a ceiling. */
const unbounded: MemoryPlan = {
  copyBeforeWriteBytes: capture.copyBeforeWriteMemoryBytes,
  nbdInFlightBytes: nbd.inFlightBytesMax,
  nbdPoolBytes: nbd.poolBytesMax,
};

/**
 * @param ceilingMiB null: none.
 * @param disks how many are served, and how many there are.
 * @throws Problem `bad-config`: too little; names the least that would do.
 */
export function memoryPlan(ceilingMiB: number | null, disks: { served: number; all: number }): MemoryPlan {
  if (ceilingMiB === null) return unbounded;
  const fixed = agent.memoryRuntimeBytes + disks.all * agent.memoryPerDiskBytes;
  // The largest request must be possible, and a cut must be able to begin.
  const least = nbd.requestBytesMax + agent.copyBeforeWriteMemoryBytesMin;
  const leastMiB = Math.ceil((fixed + disks.served * least) / MiB);
  if (ceilingMiB < leastMiB) {
    throw new Problem('bad-config', `agent.memoryMiB: ${ceilingMiB} is too little for ${disks.all} disks`, {
      remedy: `set at least ${leastMiB}, or give some of the disks to another agent`,
    });
  }
  const spare = disks.served === 0 ? 0 : (ceilingMiB * MiB - fixed) / disks.served - least;
  // Old pages first: without them cuts go to the scratch file, or are given up.
  const take = (share: number, most: number): number => Math.floor(Math.min(spare * share, most));
  return {
    copyBeforeWriteBytes:
      agent.copyBeforeWriteMemoryBytesMin +
      take(1 / 2, unbounded.copyBeforeWriteBytes - agent.copyBeforeWriteMemoryBytesMin),
    nbdInFlightBytes: nbd.requestBytesMax + take(1 / 4, unbounded.nbdInFlightBytes - nbd.requestBytesMax),
    nbdPoolBytes: take(1 / 4, unbounded.nbdPoolBytes),
  };
}
