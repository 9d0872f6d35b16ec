/**
 * Who owns a machine: the process server with its lease (C9). Pure: records and a time in, what to answer and to store out.
 *
 *  1. The epoch rises with every change of holder, is above what a target reported, and never falls: what is left of a lease keeps it, as long as
 *     its machine is known (`forgotten-leases.ts`). Another run of the same process server is another holder.
 *  2. A lease that is not over is taken from nobody but by a move; the machine then waits for whom it was moved to, as long as that one is heard.
 *  3. Time is the state's clock, the same for all control APIs, whatever their own say; it is read before the record is decided about. A lease found over
 *     then stays over unless its record changes, and then the commit does not hold. So APIs need no clocks that agree.
 *     A holder judges by its own monotonic clock, from before it asked: it never believes to hold longer than the record says.
 *  4. Leases keep order and save work; what keeps a replica safe are epochs, at the target. No step of a clock can let a stale owner write.
 *  5. Where that clock was set back, what is left of a lease is no more than `leaseMs` from when the next one asks: nobody waits for hours for one that is gone.
 */
import { limits } from '../limits.ts';
import { epochMax, type Lease, type LeaseAnswer, type LeaseAsk } from './lease-schemas.ts';

const { leaseMs, silentMs, moveMs } = limits.leases;

export interface Asker {
  readonly name: string;
  readonly session: string;
}

export interface Decision {
  readonly answer: LeaseAnswer;
  /** To be stored; undefined: it stays as it is. */
  readonly lease: Lease | undefined;
}

export interface LeaseWorld {
  /** Of the state. */
  readonly nowMs: number;
  /** Whether a process server was heard lately. */
  readonly heard: (server: string) => boolean;
}

/** Who holds it now; null: it is free. */
export function holderOf(lease: Lease | undefined, nowMs: number): string | null {
  return lease && lease.expiresMs > nowMs ? lease.holder : null;
}

/** To whom it is being moved, if that can still be. */
export function movingTo(lease: Lease | undefined, { nowMs, heard }: LeaseWorld): string | null {
  if (!lease?.move || lease.move.untilMs <= nowMs || !heard(lease.move.to)) return null;
  return lease.move.untilMs > nowMs + moveMs + leaseMs ? null : lease.move.to; // 5
}

function refused(machine: string, holder: string | null, lease: Lease | undefined, nowMs: number): LeaseAnswer {
  const held = lease && holderOf(lease, nowMs) === holder && holder !== null ? lease : undefined;
  const freeInMs = held ? Math.ceil(held.expiresMs - nowMs) : 0;
  return {
    machine,
    held: false,
    epoch: null,
    holder,
    freeInMs,
    silent: held ? nowMs - held.renewedMs > silentMs : false,
  };
}

function granted(machine: string, lease: Lease): Decision {
  return { answer: { machine, held: true, epoch: lease.epoch, holder: null, freeInMs: 0, silent: false }, lease };
}

function taken(
  lease: Lease | undefined,
  { machine, epoch: above }: LeaseAsk,
  asker: Asker,
  world: LeaseWorld,
): Decision {
  const { nowMs } = world;
  const next = movingTo(lease, world);
  if (next !== null && next !== asker.name) return { answer: refused(machine, next, lease, nowMs), lease: undefined }; // 2
  const holder = holderOf(lease, nowMs);
  if (lease && holder !== null && holder !== asker.name && next === null) {
    const ahead = lease.expiresMs > nowMs + 2 * leaseMs; // More than another API that read the clock a little later.
    const left = ahead ? { ...lease, renewedMs: nowMs, expiresMs: nowMs + leaseMs } : lease;
    return { answer: refused(machine, holder, left, nowMs), lease: ahead ? left : undefined }; // 2, 5
  }
  const time = { renewedMs: nowMs, expiresMs: nowMs + leaseMs };
  if (lease && isOf(lease, asker) && lease.epoch > above) return granted(machine, { ...lease, ...time, move: null });
  const epoch = Math.max(lease?.epoch ?? 0, above) + 1; // 1
  if (epoch > epochMax) return { answer: refused(machine, null, lease, nowMs), lease: undefined };
  const { name, session } = asker;
  return granted(machine, { holder: name, session, epoch, takenMs: nowMs, ...time, move: null });
}

const isOf = (lease: Lease, { name, session }: Asker): boolean => lease.holder === name && lease.session === session;
const ended = (lease: Lease, nowMs: number): Lease => ({
  ...lease,
  holder: null,
  expiresMs: Math.min(lease.expiresMs, nowMs),
});

/** @param lease as stored; undefined: there never was one. */
export function decideLease(lease: Lease | undefined, ask: LeaseAsk, asker: Asker, world: LeaseWorld): Decision {
  const { machine, want, epoch } = ask;
  const { nowMs } = world;
  if (want === 'take') return taken(lease, ask, asker, world);
  if (!lease || !isOf(lease, asker) || lease.epoch !== epoch) {
    return { answer: refused(machine, holderOf(lease, nowMs), lease, nowMs), lease: undefined };
  }
  const next = movingTo(lease, world);
  const leaves = next !== null && next !== asker.name;
  if (want === 'keep' && !leaves)
    return granted(machine, { ...lease, renewedMs: nowMs, expiresMs: nowMs + leaseMs, move: null });
  const after = ended(lease, nowMs);
  return { answer: refused(machine, next, after, nowMs), lease: after };
}
