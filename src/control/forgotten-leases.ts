/**
 * Leases of machines that control does not know: those that were removed, and those it never knew, whose process servers have leases all the same
 * (`unprotected.ts`). What is left of one that ended keeps its epoch (`leases.ts`, 1), but not for ever for a machine that is gone: it is removed with the
 * machine, or, where somebody still held it then, some time after it was over. Should the machine come back, its epochs begin anew; a target that still has
 * the replica refuses those below its own and says which that is, and the next lease is above.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { storedLease } from './lease-schemas.ts';
import { holderOf } from './leases.ts';
import { listAll } from './records.ts';
import type { Change, State, StateRecord } from './state.ts';

const { forgetEveryMs } = limits.leases;

const isHeld = ({ value }: StateRecord, nowMs: number): boolean => holderOf(storedLease.parse(value), nowMs) !== null;

/** What removing the machine removes of its lease. One that is taken at this very moment ends with its next renewal. */
export async function leaseRemoved(state: State, machine: string): Promise<readonly Change[]> {
  const nowMs = await state.nowMs();
  const record = await state.get('leases', machine);
  return record && !isHeld(record, nowMs) ? [{ collection: 'leases', id: machine, value: undefined }] : [];
}

/** Removes those that nobody holds. */
export async function forgetLeases(state: State): Promise<void> {
  const nowMs = await state.nowMs();
  const leases = await listAll(state, 'leases');
  // Behind the leases: a machine that comes meanwhile is known.
  const machines = new Set((await listAll(state, 'machines')).map(({ id }) => id));
  const gone = leases.filter((lease) => !machines.has(lease.id) && !isHeld(lease, nowMs));
  // Each for itself: one that is taken meanwhile stays, and keeps no other.
  for (const { id, version } of gone)
    await state.commit([{ collection: 'leases', id, value: undefined, expected: version }]);
}

/** At once, and then every so often. `end` resolves when it does not use the state any more. */
export function forgetLeasesAgainAndAgain(state: State, clock: Clock, logger: Logger): { end(): Promise<void> } {
  let last = Promise.resolve();
  const forget = (): void => {
    last = last
      .then(() => forgetLeases(state))
      .catch((error: unknown) => logger.warn({ error }, 'leases of machines that are gone were not removed'));
  };
  forget();
  const timer = clock.every(forgetEveryMs, forget);
  return {
    end() {
      timer.cancel();
      return last;
    },
  };
}
