/** What is plain must be what the schema takes, unchanged: else a log would say one thing to a quick reader and another to a careful one. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  encodeRecord,
  isPlainPoint,
  isPlainProven,
  type PointBody,
  type PointsEntry,
  type ProvenBody,
} from '../../src/store/points-record.ts';
import { runOf } from '../layers.ts';

const point: PointBody = {
  point: 7,
  cutTimeMs: 1000.5,
  committedMs: 2000,
  consistency: 'app',
  evidence: 'frozen',
  epoch: 1,
  disks: [
    {
      no: 0,
      size: 1 << 20,
      blockSize: 65_536,
      root: 'ab'.repeat(32),
      layers: runOf([2 ** 32 + 7, 2 ** 32 + 9]),
      kind: 'delta',
      records: 1,
      payloadBytes: 10,
      writes: 3,
    },
    {
      no: 1,
      size: 512,
      blockSize: 4096,
      root: '00'.repeat(32),
      layers: null,
      kind: 'initial',
      records: 0,
      payloadBytes: 0,
    },
  ],
  extents: [{ segment: 1, length: 100, chain: 'cd'.repeat(32) }],
};
const proven: ProvenBody = { point: 7, atMs: 1, blocks: 0 };

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Values beside the bounds of the schemas, and such as JSON alone can give. */
const odd: readonly Json[] = [
  ...[null, true, '', 'x', [], {}, -1, 0, 0.5, 1, 2, 511, 512, 4095, 0xfffe, 0xffff, 2 ** 20, 2 ** 21, 2 ** 32],
  ...[
    Number.MAX_SAFE_INTEGER,
    2 ** 53,
    Infinity,
    'none',
    'resync',
    'AB'.repeat(32),
    'ab'.repeat(32),
    `${'ab'.repeat(32)}\n`,
  ],
  ...['e'.repeat(1024), 'e'.repeat(1025), Array.from({ length: 65 }, () => ({})), [null]],
];

/** Every place in `value`, as the steps that lead there. */
function placesIn(value: Json, at: readonly string[] = []): (readonly string[])[] {
  const inside = typeof value === 'object' && value !== null ? Object.entries(value) : [];
  return [at, ...inside.flatMap(([name, each]) => placesIn(each, [...at, name]))];
}

function changed(
  value: Json,
  [step, ...rest]: readonly string[],
  change: (at: Json) => Json | undefined,
): Json | undefined {
  if (step === undefined) return change(value);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).flatMap(([name, each]): [string, Json][] => {
    const now = name === step ? changed(each, rest, change) : each;
    return now === undefined ? [] : [[name, now]];
  });
  return Array.isArray(value) ? entries.map(([, each]) => each) : Object.fromEntries(entries);
}

/** One or two changes: another value, none, a field nobody knows, an item twice. */
function mutants(whole: Json): fc.Arbitrary<Json> {
  const change = fc.oneof(
    fc.constantFrom(...odd).map((value) => () => value),
    fc.constant(() => undefined),
    fc.constantFrom('extra', 'evidence', 'writes', 'toString').map(
      (name) =>
        (at: Json): Json =>
          typeof at === 'object' && at !== null && !Array.isArray(at) ? { ...at, [name]: 1 } : at,
    ),
    fc.constant((at: Json): Json => (Array.isArray(at) ? [...at, ...at] : at)),
  );
  const once = (value: Json): fc.Arbitrary<Json> =>
    fc.tuple(fc.constantFrom(...placesIn(value)), change).map(([place, how]) => changed(value, place, how) ?? null);
  return fc.oneof(once(whole), once(whole).chain(once));
}

/** What a record of it says; null: its schema refuses it. */
function bySchema(entry: PointsEntry): unknown {
  try {
    const bytes = Buffer.from(encodeRecord(entry, { number: 0, previousHash: new Uint8Array(32) }));
    return JSON.parse(bytes.toString('utf8', 48, bytes.byteLength - 32)) as unknown;
  } catch {
    return null;
  }
}

it('takes the bodies that logs are full of', () => {
  const { evidence, ...usual } = point;
  expect(evidence).toBe('frozen');
  for (const body of [point, usual]) expect(isPlainPoint(JSON.parse(JSON.stringify(body)))).toBe(true);
  expect(isPlainProven(JSON.parse(JSON.stringify(proven)))).toBe(true);
});

it('takes nothing that the schema would refuse or change', () => {
  let taken = 0;
  fc.assert(
    fc.property(mutants(point as unknown as Json), mutants({ ...proven }), (first, second) => {
      if (isPlainPoint(first)) {
        taken += 1;
        expect(bySchema({ type: 'point', body: first })).toEqual(first);
      }
      if (isPlainProven(second)) expect(bySchema({ type: 'proven', body: second })).toEqual(second);
    }),
    { numRuns: 3_000 },
  );
  // Many changes are harmless: else nothing was compared.
  expect(taken).toBeGreaterThan(100);
});

it('refuses names that objects inherit, and the one that JSON alone can give', () => {
  for (const name of ['__proto__', 'constructor', 'toString'])
    expect(isPlainProven(JSON.parse(`{"point":7,"atMs":1,"blocks":0,"${name}":1}`))).toBe(false);
  expect(isPlainProven([7, 1, 0])).toBe(false);
});
