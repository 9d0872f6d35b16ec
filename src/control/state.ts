/**
 * The state port: where control keeps what must outlive it. Embedded LMDB (`state-lmdb.ts`), or PostgreSQL when there is more than one
 * control API (`state-postgres.ts`). Small JSON records in a handful of collections; no bulk data, no secret in clear.
 *
 * Contract, for every implementation (one shared suite, `test/control/state-contract.ts`, runs against all):
 *  1. `commit` is atomic and durable: all changes are on stable storage when it resolves `ok`, or none was made.
 *  2. Compare and set: a change is made only if the record stands at `expected` (0: does not exist). One conflict refuses all.
 *  3. Versions rise over the whole store and are never given twice, not even to a record that was deleted and made again: a version
 *     seen once names one value for ever.
 *  4. Reads see every commit that resolved before them.
 *  5. `list` walks ids in byte order, forwards or backwards; a cursor is the last id seen, and stays good while others change.
 *  6. Values come back as they were given (JSON); changing one that was read changes nothing.
 *  7. `nowMs` is one clock for all who share the store: whoever judges by it judges alike. It may step, as wall clocks do.
 *
 * A fault of the store itself is thrown as a Problem (`unreachable`, `not-writable`, `full`, `timeout`), always retryable once it was opened; what
 * was to be committed then may have been, or not.
 */
import { invariant } from '../kit/invariant.ts';

export const collections = [
  'machines',
  'policies',
  'registration-keys',
  'points',
  'reports',
  'resyncs',
  'unprotected',
  'site',
  'leases',
  'servers',
  'reliefs',
  'server-limits',
] as const;
export type Collection = (typeof collections)[number];

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json | undefined };

export interface StateRecord {
  /** Printable ASCII without spaces, at most 256 characters. */
  readonly id: string;
  readonly value: Json;
  /** ≥ 1. */
  readonly version: number;
}

export interface Change {
  readonly collection: Collection;
  readonly id: string;
  /** The new value; `undefined` deletes. */
  readonly value: Json | undefined;
  /** The version the record must stand at, 0 if it must not exist; left out: whatever it is. */
  readonly expected?: number;
}

/** `versions[i]` belongs to `changes[i]` (0 for a deletion); `conflict` is the index of the first change that did not hold. */
export type CommitResult =
  { readonly ok: true; readonly versions: readonly number[] } | { readonly ok: false; readonly conflict: number };

export interface ListOptions {
  /** Only ids that begin with this. */
  readonly prefix?: string;
  /** Cursor: begin behind this id. */
  readonly after?: string;
  readonly backwards?: boolean;
  /** Records at most, ≥ 1. */
  readonly limit: number;
}

export interface State {
  get(collection: Collection, id: string): Promise<StateRecord | undefined>;
  /** Those of them that exist, by id, in one question. */
  getMany(collection: Collection, ids: readonly string[]): Promise<ReadonlyMap<string, StateRecord>>;
  list(collection: Collection, options: ListOptions): Promise<readonly StateRecord[]>;
  commit(changes: readonly Change[]): Promise<CommitResult>;
  /** Whole milliseconds since the Unix epoch. */
  nowMs(): Promise<number>;
  /** Idempotent. */
  close(): Promise<void>;
}

const idForm = /^[\x21-\x7e]{1,256}$/;

export function checkId(id: string): void {
  invariant(idForm.test(id), `a record's id is printable ASCII: ${JSON.stringify(id)}`);
}
