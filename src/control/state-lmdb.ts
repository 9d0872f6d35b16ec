/**
 * The state port on LMDB, embedded. One database; key `[collection, id]`, value JSON text `{version, value}`; key `['version']`
 * holds the highest version given. Transactions are flushed before they resolve (`overlappingSync` is off: with it a commit
 * is visible before it is durable), so contract rule 1 costs one fdatasync, shared by all commits of one turn.
 */
import { open, type RangeOptions } from 'lmdb';
import type { Clock } from '../kit/clock.ts';
import {
  checkId,
  type Change,
  type CommitResult,
  type Json,
  type ListOptions,
  type State,
  type StateRecord,
} from './state.ts';

const highestVersion = ['version'];
/** Sorts behind every character an id may have. */
const behindAll = '\x7f';

interface Stored {
  readonly version: number;
  readonly value: Json;
}

const keyOf = (collection: string, id: string): string[] => {
  checkId(id);
  return [collection, id];
};

/** The keys `list` walks: the prefix's, from the cursor on; one more than asked for, since the cursor itself is among them. */
function rangeOf(collection: string, { prefix = '', after, backwards = false, limit }: ListOptions): RangeOptions {
  const [first, last] = [prefix, prefix + behindAll];
  const low = [collection, !backwards && after !== undefined && after > first ? after : first];
  const high = [collection, backwards && after !== undefined && after < last ? after : last];
  const [start, end] = backwards ? [high, low] : [low, high];
  return { start, end, reverse: backwards, inclusiveEnd: true, limit: limit + 1 };
}

const mode = { encoding: 'string', overlappingSync: false, noSubdir: false } as const;
const decode = (text: string): Stored => JSON.parse(text) as Stored;

/** @param directory made if missing; one process at a time is the caller's to ensure, so its wall clock is everybody's. */
export function openLmdbState(directory: string, clock: Clock): State {
  const database = open<string, string[]>({ path: directory, ...mode });
  const stored = (collection: string, id: string): Stored | undefined => {
    const text = database.get(keyOf(collection, id));
    return text === undefined ? undefined : decode(text);
  };

  const apply = (changes: readonly Change[]): CommitResult => {
    for (const [index, { collection, id, expected }] of changes.entries()) {
      if (expected !== undefined && (stored(collection, id)?.version ?? 0) !== expected)
        return { ok: false, conflict: index };
    }
    let highest = Number(database.get(highestVersion) ?? '0');
    const versions = changes.map(({ collection, id, value }) => {
      if (value === undefined) {
        database.removeSync(keyOf(collection, id));
        return 0;
      }
      highest += 1;
      database.putSync(keyOf(collection, id), JSON.stringify({ version: highest, value } satisfies Stored));
      return highest;
    });
    database.putSync(highestVersion, String(highest));
    return { ok: true, versions };
  };

  let closing: Promise<void> | undefined;
  return {
    async get(collection, id) {
      await Promise.resolve();
      const found = stored(collection, id);
      return found && { id, ...found };
    },
    async getMany(collection, ids) {
      await Promise.resolve();
      const found = ids.map((id) => [id, stored(collection, id)] as const);
      return new Map(found.flatMap(([id, record]) => (record ? [[id, { id, ...record }] as const] : [])));
    },
    async list(collection, options) {
      await Promise.resolve();
      const { after, limit } = options;
      const records: StateRecord[] = [];
      const range = rangeOf(collection, options);
      for (const { key, value } of database.getRange(range)) {
        const id = key[1];
        if (id === undefined || id === after || records.length === limit) continue;
        records.push({ id, ...decode(value) });
      }
      return records;
    },
    commit: async (changes) => {
      for (const { collection, id } of changes) keyOf(collection, id);
      return await database.transaction(() => apply(changes));
    },
    nowMs: () => Promise.resolve(Math.floor(clock.wallMs())),
    close: () => (closing ??= database.close()),
  };
}
