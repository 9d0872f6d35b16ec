/**
 * Whose epoch it is (C9; PROTOCOL.md, *Whose epoch*): which process server may write a machine's replica now, and with what evidence every
 * other one is refused. Pure: the newest EPOCH record of `points.log` is the truth, and whoever writes asks it each time, in the same step.
 *
 * A machine that was held by a lease waits for the next lease, for ever if no more are given. So an operator of the target can release it: the
 * target writes down the next epoch as nobody's, whoever was there is stale, and who comes next has the machine, with a lease above it or without one.
 */
import { Problem } from '../kit/problem.ts';
import { releasedInstance, type EpochBody } from './points-record.ts';

/** What a process server says of itself when it asks for a machine. */
export interface EpochClaim {
  /** Hex. */
  readonly instance: string;
  /** The name in its certificate; evidence for who is refused later. */
  readonly server?: string | undefined;
  /** The epoch of its lease; left out: it has none. */
  readonly lease?: number | undefined;
}

/** Problem `stale-epoch`, retryable: somebody else has the machine. */
export class StaleEpoch extends Problem {
  /** The machine's newest. */
  readonly epoch: number;

  constructor(message: string, epoch: number) {
    super('stale-epoch', message, {
      retryable: true,
      remedy: 'nothing, where the machine was given to another process server; else stop one of the two that claim it',
    });
    this.epoch = epoch;
  }
}

/** What the claimant writes under: the newest record where that is its own, or another one, which is to be made durable first. @throws StaleEpoch. */
export function epochFor(machine: string, now: EpochBody | null, claim: EpochClaim, atMs: number): EpochBody {
  const { instance, server, lease } = claim;
  const newest = now?.epoch ?? 0;
  if (now?.instance === instance && (lease ?? newest) === newest) return now;
  if (lease === undefined && now?.lease === true)
    throw new StaleEpoch(`refused: ${holds(machine, now)}, by a lease; this one has none. ${wayBack(machine)}`, newest);
  if (lease !== undefined && lease <= newest) throw stale(machine, now, lease);
  const named = server === undefined ? {} : { server };
  return { epoch: lease ?? newest + 1, instance, atMs, ...named, ...(lease === undefined ? {} : { lease: true }) };
}

/** @throws StaleEpoch unless the epoch is the newest. */
export function refuseStale(machine: string, now: EpochBody | null, epoch: number): void {
  if (epoch !== (now?.epoch ?? 0)) throw stale(machine, now, epoch);
}

/** Part of the message: a remedy does not cross the wire. */
const wayBack = (machine: string): string =>
  `If the site gave leases up: tidemark release ${machine}, on the host of the target`;

/** The entry that takes a machine from whoever has it. */
export function releaseOf(now: EpochBody | null, atMs: number) {
  return { type: 'epoch', body: { epoch: (now?.epoch ?? 0) + 1, instance: releasedInstance, atMs } } as const;
}

function stale(machine: string, now: EpochBody | null, epoch: number): StaleEpoch {
  const evidence = now ? holds(machine, now) : `nobody has had ${machine} yet`;
  return new StaleEpoch(`epoch ${epoch} is refused: ${evidence}`, now?.epoch ?? 0);
}

function holds(machine: string, { epoch, instance, server, atMs }: EpochBody): string {
  if (instance === releasedInstance)
    return `${machine} was released at ${new Date(atMs).toISOString()}, as epoch ${epoch}`;
  const whose = server === undefined ? `instance ${instance}` : `process server ${server} (instance ${instance})`;
  return `${whose} has had ${machine} since ${new Date(atMs).toISOString()} under epoch ${epoch}`;
}
