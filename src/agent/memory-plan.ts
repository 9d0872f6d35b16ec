/**
 * From one ceiling for the whole process, the bounds of its parts. What an agent holds is bounded with or without a ceiling
 * (`limits.ts`); a ceiling makes the large bounds smaller, down to what the product can not work without, and below that it is refused.
 *
 * What is counted: the runtime with its code, read-ahead and batches of the sender; threads that hash; per disk the change log's tables and,
 * where it is served, requests in flight of one client, request memory kept for the next ones, and old pages of a cut. A second client of a
 * disk may add as much in flight again.
 */
import { Problem } from '../kit/problem.ts';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';

export interface MemoryPlan {
  /** Old pages of a cut kept in memory, per disk; what is beyond goes to the scratch file. */
  readonly copyBeforeWriteBytes: number;
  /** Data of requests in flight, per client of a disk. */
  readonly nbdInFlightBytes: number;
  /** Request memory kept for the next requests, per disk; as much as may be in flight, or busy writers leave it to the garbage collector. */
  readonly nbdPoolBytes: number;
  readonly hashThreads: number;
}

export interface MemoryNeeds {
  readonly disks: number;
  /** Those with an NBD server. */
  readonly served: number;
  /** Threads that would hash if memory were no matter. */
  readonly hashThreads: number;
}

const { nbd, capture, agent } = limits;

/**
 * @param ceilingMiB null: none.
 * @throws Problem `bad-config`: too little; names the least that would do.
 */
export function memoryPlan(ceilingMiB: number | null, { disks, served, hashThreads }: MemoryNeeds): MemoryPlan {
  const usual = {
    copyBeforeWriteBytes: capture.copyBeforeWriteMemoryBytes,
    nbdInFlightBytes: nbd.inFlightBytesMax,
    nbdPoolBytes: nbd.poolBytesMax,
  };
  if (ceilingMiB === null) return { ...usual, hashThreads };
  // The largest request must be possible, and a cut must be able to begin.
  const least = {
    copyBeforeWriteBytes: agent.copyBeforeWriteMemoryBytesMin,
    nbdInFlightBytes: nbd.requestBytesMax,
    nbdPoolBytes: nbd.poolBytesMax,
  };
  const leastServed = least.copyBeforeWriteBytes + least.nbdInFlightBytes + least.nbdPoolBytes;
  const withoutThreads = agent.memoryRuntimeBytes + disks * agent.memoryPerDiskBytes + served * leastServed;
  const forThreads = ceilingMiB * MiB - withoutThreads;
  const threads = Math.min(hashThreads, Math.floor(forThreads / agent.memoryPerHashThreadBytes));
  if (threads < 1) {
    const leastMiB = Math.ceil((withoutThreads + agent.memoryPerHashThreadBytes) / MiB);
    throw new Problem(
      'bad-config',
      `agent.memoryMiB: ${ceilingMiB} is too little for ${disks} disk${disks === 1 ? '' : 's'}`,
      {
        remedy: `set at least ${leastMiB}, or give some of the disks to another agent`,
      },
    );
  }
  const spare = served === 0 ? 0 : (forThreads - threads * agent.memoryPerHashThreadBytes) / served;
  const grown = (part: 'copyBeforeWriteBytes' | 'nbdInFlightBytes'): number =>
    Math.floor(Math.min(least[part] + spare / 2, usual[part]));
  return {
    copyBeforeWriteBytes: grown('copyBeforeWriteBytes'),
    nbdInFlightBytes: grown('nbdInFlightBytes'),
    nbdPoolBytes: least.nbdPoolBytes,
    hashThreads: threads,
  };
}
