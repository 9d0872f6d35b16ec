/** What rots, gets lost or is confused in the files of a store, and what `verify` must say of it. The rules are those of `bit-rot.test.ts`. */
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { entriesOf, flipBit } from '../../scripts/demo/damage.ts';
import type { Dice } from '../product/content.ts';
import type { RotStore } from './rot-store.ts';

/** The type of entries with moved records (FORMAT.md). */
export const movedEntry = 4;

/** What a mutation must lead to. `either`: told or not, it may be one of the rules in the head. */
export type Due = 'damage' | 'no-damage' | 'note' | 'either';

interface Mutation {
  readonly what: string;
  readonly due: Due;
}

/** Changes something; the files it names are put back, or away, afterwards. */
export type Mutate = (store: RotStore, dice: Dice, keep: (file: string) => Promise<Buffer>) => Promise<Mutation>;

/** Files of segments in the copies that were kept. */
async function segmentsBefore({ older }: RotStore): Promise<string[]> {
  const directories = older.map((directory) => path.join(directory, 'machines', 'm1', 'segments'));
  const found = directories.map(async (directory) =>
    (await readdir(directory)).map((name) => path.join(directory, name)),
  );
  return (await Promise.all(found)).flat().filter((file) => file.endsWith('.seg'));
}

async function relied(store: RotStore, dice: Dice): Promise<{ name: string; file: string; offset: number }> {
  const name = dice.pick([...store.knownEnds.keys()]);
  return { name, file: store.file('segments', name), offset: dice.between(0, store.knownEnds.get(name) ?? 1) };
}

const flipRelied: Mutate = async (store, dice, keep) => {
  const { name, file, offset } = await relied(store, dice);
  await keep(file);
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}`, due: 'damage' };
};

/** In the first bytes of an entry: header, prefix and rows are few bytes among payloads. */
const flipFramed: Mutate = async (store, dice, keep) => {
  const { name, file } = await relied(store, dice);
  const bytes = await keep(file);
  const entry = dice.pick(entriesOf(bytes).filter(({ at }) => at < (store.knownEnds.get(name) ?? 0)));
  const offset = Math.min(
    entry.at + dice.between(0, 64 + Math.min(entry.bodyLength, 2000)),
    (store.knownEnds.get(name) ?? 1) - 1,
  );
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}, in the entry at ${entry.at}`, due: 'damage' };
};

/** Anywhere in an entry of moved records. */
const flipMoved: Mutate = async (store, dice, keep) => {
  const places: { name: string; at: number; end: number }[] = [];
  for (const [name, known] of store.knownEnds)
    for (const { type, at, bodyLength } of entriesOf(await readFile(store.file('segments', name))))
      if (type === movedEntry && at < known) places.push({ name, at, end: at + 64 + bodyLength });
  const { name, at, end } = dice.pick(places);
  const file = store.file('segments', name);
  await keep(file);
  const offset = dice.between(at, end);
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}, moved there`, due: 'damage' };
};

/** A removed segment is there again. */
const returnSegment: Mutate = async (store, dice, keep) => {
  const there = new Set(await store.segments());
  const from = dice.pick((await segmentsBefore(store)).filter((file) => !there.has(path.basename(file))));
  const file = store.file('segments', path.basename(from));
  await keep(file);
  await cp(from, file);
  return { what: `${path.basename(from)} there again`, due: 'no-damage' };
};

const loseStretch: Mutate = async (store, dice, keep) => {
  const { name, file, offset } = await relied(store, dice);
  const bytes = await keep(file);
  const from = offset - (offset % 512);
  const to = Math.min(from + 512 * dice.between(1, 16), store.knownEnds.get(name) ?? 0);
  const before = Buffer.from(bytes.subarray(from, to));
  bytes.fill(dice.pick([0, 0xff]), from, to);
  await writeFile(file, bytes);
  const same = before.equals(bytes.subarray(from, to));
  return { what: `bytes ${from} to ${to} of ${name} lost`, due: same ? 'no-damage' : 'damage' };
};

const cutShort: Mutate = async (store, dice, keep) => {
  const { name, file, offset } = await relied(store, dice);
  await writeFile(file, (await keep(file)).subarray(0, offset));
  return { what: `${name} cut at ${offset}`, due: 'damage' };
};

const loseSegment: Mutate = async (store, dice, keep) => {
  const { name, file } = await relied(store, dice);
  await keep(file);
  await rm(file);
  return { what: `${name} gone`, due: 'damage' };
};

const exchange: Mutate = async (store, dice, keep) => {
  const names = [...store.knownEnds.keys()];
  const [first, second] = [dice.pick(names), dice.pick(names)];
  const [one, two] = [await keep(store.file('segments', first)), await keep(store.file('segments', second))];
  await writeFile(store.file('segments', first), two);
  await writeFile(store.file('segments', second), one);
  return { what: `${first} and ${second} exchanged`, due: first === second ? 'no-damage' : 'damage' };
};

/** A whole entry of somewhere else in the place of one, every byte of it once right. */
const moveEntry: Mutate = async (store, dice, keep) => {
  const { name, file } = await relied(store, dice);
  const bytes = await keep(file);
  const from = dice.pick(await store.segments());
  const source = await readFile(store.file('segments', from));
  const entry = dice.pick(entriesOf(source));
  const place = dice.pick(entriesOf(bytes).filter(({ at }) => at < (store.knownEnds.get(name) ?? 0)));
  const same = from === name && entry.at === place.at;
  source.copy(bytes, place.at, entry.at, Math.min(entry.at + 64 + entry.bodyLength, source.length));
  await writeFile(file, bytes);
  return {
    what: `the entry at ${entry.at} of ${from} in the place of ${place.at} of ${name}`,
    due: same ? 'no-damage' : 'damage',
  };
};

const ofAnotherMachine: Mutate = async (store, dice, keep) => {
  const { name, file } = await relied(store, dice);
  await keep(file);
  await cp(path.join(store.other.data, 'machines', 'm1', 'segments', '000001.seg'), file);
  return { what: `${name} of another machine`, due: 'damage' };
};

const staleSegment: Mutate = async (store, dice, keep) => {
  const from = dice.pick((await segmentsBefore(store)).filter((file) => store.knownEnds.has(path.basename(file))));
  const name = path.basename(from);
  const bytes = await keep(store.file('segments', name));
  const stale = await readFile(from);
  await writeFile(store.file('segments', name), stale);
  const end = store.knownEnds.get(name) ?? 0;
  const same = stale.length >= end && stale.subarray(0, end).equals(bytes.subarray(0, end));
  return { what: `${name} as it was once`, due: same ? 'no-damage' : 'damage' };
};

const flipTail: Mutate = async (store, dice, keep) => {
  const name = [...store.knownEnds.keys()].sort().at(-1) ?? '';
  const file = store.file('segments', name);
  const { length } = await keep(file);
  const end = store.knownEnds.get(name) ?? 0;
  if (length <= end) return { what: `${name} has no tail`, due: 'no-damage' };
  const offset = dice.between(end, Math.min(length, end + 40_000));
  await flipBit(file, offset, dice.between(0, 8));
  return { what: `a bit of byte ${offset} of ${name}, above ${end}`, due: 'no-damage' };
};

const cutTail: Mutate = async (store, dice, keep) => {
  const name = [...store.knownEnds.keys()].sort().at(-1) ?? '';
  const file = store.file('segments', name);
  const bytes = await keep(file);
  const at = dice.between(store.knownEnds.get(name) ?? 0, bytes.length + 1);
  await writeFile(file, bytes.subarray(0, at));
  return { what: `${name} cut at ${at}, in its tail`, due: 'no-damage' };
};

const flipPoints: Mutate = async (store, dice, keep) => {
  const file = store.file('points.log');
  const { length } = await keep(file);
  const offset = dice.between(0, length);
  await flipBit(file, offset, dice.between(0, 8));
  return {
    what: `a bit of byte ${offset} of points.log`,
    due: offset >= (store.records.at(-1) ?? 0) ? 'note' : 'damage',
  };
};

/** Short records are hit as often as long ones. */
const flipRecord: Mutate = async (store, dice, keep) => {
  const file = store.file('points.log');
  const { length } = await keep(file);
  const number = dice.between(0, store.records.length);
  const offset = dice.between(store.records[number] ?? 0, store.records[number + 1] ?? length);
  await flipBit(file, offset, dice.between(0, 8));
  const what = `a bit of byte ${offset} of points.log, in record ${number} of type ${store.types[number] ?? 0}`;
  return { what, due: number === store.records.length - 1 ? 'note' : 'damage' };
};

const cutPoints: Mutate = async (store, dice, keep) => {
  const file = store.file('points.log');
  const bytes = await keep(file);
  // Between two records, and in one.
  const at = dice.pick([dice.pick(store.records), dice.between(0, bytes.length)]);
  await writeFile(file, bytes.subarray(0, at));
  const due = at < store.lastEpochEnd ? 'damage' : store.records.includes(at) ? 'either' : 'note';
  return { what: `points.log cut at ${at}`, due };
};

const olderPoints: Mutate = async (store, dice, keep) => {
  const bytes = await keep(store.file('points.log'));
  const log = await readFile(path.join(dice.pick(store.older), 'machines', 'm1', 'points.log'));
  await writeFile(store.file('points.log'), log);
  const due = log.length < store.lastEpochEnd ? 'damage' : log.length === bytes.length ? 'no-damage' : 'either';
  return { what: `points.log as it was with ${log.length} bytes`, due };
};

const flipFacts: Mutate = async (store, dice, keep) => {
  const file = store.file('machine.json');
  const before = await keep(file);
  const offset = dice.between(0, before.length);
  await flipBit(file, offset, dice.between(0, 8));
  return {
    what: `a bit of byte ${offset} of machine.json`,
    due: sameButLabels(before, await readFile(file)) ? 'either' : 'damage',
  };
};

/** Whether two `machine.json` differ in the names of disks at most; hex digits count the same in either case. */
function sameButLabels(before: Buffer, after: Buffer): boolean {
  const bare = (bytes: Buffer): string | null => {
    try {
      return JSON.stringify(JSON.parse(bytes.toString('utf8')), (key, value: unknown) => (key === 'name' ? '' : value));
    } catch {
      return null;
    }
  };
  return bare(before) === bare(after);
}

/** With weights: what lies where most bytes are is hit most often, but nothing is left out. */
export const kinds: readonly (readonly [number, string, Mutate])[] = [
  [20, 'flip', flipRelied],
  [20, 'flip in a header or row', flipFramed],
  [8, 'flip in moved records', flipMoved],
  [3, 'returned segment', returnSegment],
  [8, 'lost stretch', loseStretch],
  [8, 'cut', cutShort],
  [2, 'lost segment', loseSegment],
  [3, 'exchanged segments', exchange],
  [8, 'moved entry', moveEntry],
  [2, 'foreign segment', ofAnotherMachine],
  [3, 'stale segment', staleSegment],
  [6, 'flip in the tail', flipTail],
  [3, 'cut tail', cutTail],
  [8, 'flip in points.log', flipPoints],
  [8, 'flip in a record of points.log', flipRecord],
  [4, 'cut points.log', cutPoints],
  [2, 'older points.log', olderPoints],
  [6, 'flip in machine.json', flipFacts],
];
