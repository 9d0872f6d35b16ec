/** Runs of layers: what is folded in comes back through every message that carries one, and what can be no run is refused. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { digest } from '../../src/kernels/hash.ts';
import { sameLayers, withLayer, type LayerRun } from '../../src/kernels/layer-run.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { decodeFrame } from '../../src/wire/frame.ts';
import { layerRunField } from '../../src/wire/layer-run.ts';
import { decodeOpened, encodeOpened, type Opened } from '../../src/wire/opened.ts';
import { decodePointMessage, encodePointMessage } from '../../src/wire/point.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';

const root = 'ab'.repeat(32);

/** Ascending, with holes as other disks of a machine leave them, and jumps from epoch to epoch. */
const seqs = fc
  .uniqueArray(fc.record({ epoch: fc.nat(2 ** 21 - 3), counter: fc.nat(2 ** 32 - 1) }), {
    maxLength: 40,
    selector: ({ epoch, counter }) => seqOf(epoch, counter),
  })
  .map((all) => all.map(({ epoch, counter }) => seqOf(epoch, counter) + 1).sort((a, b) => a - b));

function opened(layers: LayerRun | null, more: Partial<Opened> = {}): Opened {
  const place = { epoch: 2 ** 21 - 1, nextCounter: 1, committed: null, leaves: 'compare' } as const;
  return { disk: 0, diskId: '11'.repeat(16), ...place, layers, leafKey: root, ...more };
}

function throughPoint(layers: unknown): LayerRun | null | undefined {
  const disk = { disk: 0, size: 4096, root, kind: 'delta', records: 1, payloadBytes: 1 } as const;
  const message = { cutTimeMs: 1, consistency: 'crash', disks: [{ ...disk, layers: layers as LayerRun }] } as const;
  return decodePointMessage(decodeFrame(encodePointMessage({ ...message, disks: [...message.disks] })).body).disks[0]
    ?.layers;
}

function throughOpened(message: Opened): LayerRun | null {
  return decodeOpened(decodeFrame(encodeOpened(message)).body).layers;
}

/** Undefined: refused as a broken protocol. Anything else that is thrown is a bug. */
function orRefused<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (isProblem(error) && error.code === 'protocol-error') return undefined;
    throw error;
  }
}

describe('a run of layers', () => {
  it('has this chain', () => {
    const one = digest(new Uint8Array(32), Buffer.from('0700000001000000', 'hex'));
    const two = digest(one, Buffer.from('0100000002000000', 'hex'));
    expect(runOf([])).toBeNull();
    expect(runOf([seqOf(1, 7), seqOf(2, 1)])).toEqual({
      first: 2 ** 32 + 7,
      last: 2 ** 33 + 1,
      count: 2,
      chain: Buffer.from(two).toString('hex'),
    });
  });

  it('comes back as it was through POINT and OPENED, and is the same only for the same layers', () => {
    fc.assert(
      fc.property(seqs, fc.nat(), (all, pick) => {
        const run = runOf(all);
        expect(throughPoint(run)).toEqual(run);
        expect(throughOpened(opened(run))).toEqual(run);
        expect(sameLayers(run, runOf(all))).toBe(true);
        if (all.length === 0) return;
        const at = pick % all.length;
        expect(sameLayers(run, runOf(all.toSpliced(at, 1)))).toBe(false);
        const moved = all.with(at, (all[at] ?? 0) + 1);
        if (new Set(moved).size === moved.length) expect(sameLayers(run, runOf(moved))).toBe(false);
      }),
    );
  });

  it('takes no layer that is not behind the last one', () => {
    const run = runOf([5, 9]);
    for (const seq of [1, 5, 7, 9]) expect(() => withLayer(run, seq)).toThrow('invariant');
  });

  it('that can be none is refused, whatever stands in its place', () => {
    const run = { first: 5, last: 9, count: 3, chain: root };
    const wrong: unknown[] = [
      { ...run, first: 10 },
      { ...run, count: 6 },
      { ...run, count: 1 },
      { ...run, count: 0 },
      { ...run, last: 5 },
      { ...run, first: 0 },
      { ...run, first: 5.5 },
      { ...run, last: 2 ** 53 },
      { ...run, chain: root.slice(2) },
      { ...run, chain: root.toUpperCase() },
      { first: 5, last: 9, count: 3 },
      [5, 7, 9],
      [],
      'null',
    ];
    expect(throughPoint(run)).toEqual(run);
    for (const each of wrong) {
      expect(
        orRefused(() => throughPoint(each)),
        JSON.stringify(each),
      ).toBeUndefined();
      expect(
        orRefused(() => throughOpened(opened(each as LayerRun))),
        JSON.stringify(each),
      ).toBeUndefined();
    }
  });

  it('never comes out of hostile values as what it can not be', () => {
    const number = fc.oneof(fc.integer({ min: -2, max: 12 }), fc.maxSafeInteger(), fc.double());
    const hostile = fc.record(
      { first: number, last: number, count: number, chain: fc.oneof(fc.constant(root), fc.string()) },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.oneof(hostile, fc.jsonValue()), (value) => {
        const run = orRefused(() => throughPoint(value));
        if (run === undefined || run === null) return;
        const { first, last, count, chain } = run;
        expect(first >= 1 && first <= last && Number.isSafeInteger(last)).toBe(true);
        expect(count >= 1 && count <= last - first + 1 && (count === 1) === (first === last)).toBe(true);
        expect(chain).toMatch(/^[0-9a-f]{64}$/);
        expect(layerRunField.parse(run)).toEqual(run);
      }),
      { numRuns: 2000 },
    );
  });

  it('of layers that are not before the next one is refused in OPENED: nothing could be put behind them', () => {
    const run = runOf([seqOf(3, 4), seqOf(3, 8)]);
    expect(throughOpened(opened(run, { epoch: 3, nextCounter: 9 }))).toEqual(run);
    expect(throughOpened(opened(run, { epoch: 4, nextCounter: 1 }))).toEqual(run);
    for (const [epoch, nextCounter] of [
      [3, 8],
      [2, 9],
      [2 ** 30, 9],
      [3, 2 ** 40],
      [-3, 9],
    ] as const)
      expect(orRefused(() => throughOpened(opened(run, { epoch, nextCounter })))).toBeUndefined();
  });
});
