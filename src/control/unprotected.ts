/**
 * Machines whose protection was disabled. A record stays behind each, so that their agents and targets learn that this was meant: a machine
 * control merely does not know goes on being replicated (control may have lost its state; protection must not go with it).
 *
 * Invariants:
 *  1. `deleteReplica` is passed to targets until one says that it deleted the replica. Until then the machine can not be protected again: its new
 *     replica would be deleted.
 *  2. Protecting the machine again removes the record.
 */
import { Problem } from '../kit/problem.ts';
import { listAll } from './records.ts';
import type * as reports from './report-schemas.ts';
import * as schemas from './schemas.ts';
import type { Change, State } from './state.ts';

/** What `protect` has to change beside the machine. @throws Problem `version-conflict` while the replica is still to be deleted. */
export async function protectAgain(state: State, name: string): Promise<readonly Change[]> {
  const record = await state.get('unprotected', name);
  if (!record) return [];
  if (schemas.storedUnprotected.parse(record.value).deleteReplica) {
    throw new Problem('version-conflict', `the replica of ${name} is still to be deleted`, {
      remedy: 'wait until its target reported that it is gone, then protect it again',
    });
  }
  return [{ collection: 'unprotected', id: name, value: undefined, expected: record.version }];
}

/** @throws Problem `unprotected`. */
export async function refuseUnprotected(state: State, name: string): Promise<void> {
  if (!(await state.get('unprotected', name))) return;
  throw new Problem('unprotected', `protection of ${name} was disabled`, {
    remedy: 'stop its agent, or protect it again with `tidemark protect`',
  });
}

/** What a target is told. */
export async function unprotectedMachines(state: State): Promise<reports.ReportReply['unprotected']> {
  return (await listAll(state, 'unprotected')).map(({ id, value }) => ({
    name: id,
    deleteReplica: schemas.storedUnprotected.parse(value).deleteReplica,
  }));
}

/** A target says that these replicas are gone. */
export async function replicasDeleted(state: State, names: readonly string[]): Promise<Change[]> {
  const changes: Change[] = [];
  for (const name of names) {
    const record = await state.get('unprotected', name);
    if (!record) continue;
    const value = { ...schemas.storedUnprotected.parse(record.value), deleteReplica: false };
    changes.push({ collection: 'unprotected', id: name, value });
  }
  return changes;
}
