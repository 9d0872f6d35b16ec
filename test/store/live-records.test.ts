/** What fold leaves of a block's records, against a plain model; and which segments compaction takes. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { segmentsToCompact } from '../../src/store/compact-plan.ts';
import { derivePages, recordValueBytesMax, writeRecord, readRecord } from '../../src/store/index-codec.ts';
import { liveVersions, type Version } from '../../src/store/live-records.ts';

const pages = 16;

/** Records of one block: which pages each writes, or that it is all zero. */
const writes = fc.array(
  fc.oneof(
    { weight: 1, arbitrary: fc.constant<number | 'zero'>('zero') },
    { weight: 2, arbitrary: fc.constant<number | 'zero'>(0xffff) },
    { weight: 6, arbitrary: fc.integer({ min: 1, max: 0xfffe }) },
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 15 }).map((page) => 1 << page) },
  ),
  { minLength: 1, maxLength: 14 },
);

interface Written {
  readonly seq: number;
  readonly write: number | 'zero';
}

/** Replays records in order as the index does: page maps over what is there. */
function indexed(written: readonly Written[]): (Version & { value: Buffer })[] {
  let below: { seq: number; value: Buffer } | undefined;
  return written.map(({ seq, write }) => {
    const mask = write === 'zero' ? 0xffff : write;
    const row = { block: 1, pageMask: mask, codec: write === 'zero' ? 3 : 1, storedLength: 1, rawLength: 1, nonce: 0 };
    const value = Buffer.alloc(recordValueBytesMax);
    const derived = derivePages(mask, seq, below);
    const place = { segment: 1, payloadOffset: 1 };
    const length = writeRecord(value, 0, { ...row, leaf: Buffer.alloc(32), tag: Buffer.alloc(16) }, place, derived);
    const own = value.subarray(0, length);
    below = { seq, value: own };
    return { seq, zero: write === 'zero', pages: derived, value: own };
  });
}

/** Which record each page of the block comes from as of `mark`: null is zeros. Nothing is read that is not there. */
function readAt(versions: readonly Version[], mark: number): (number | null)[] | 'missing' {
  const newest = versions.findLast(({ seq }) => seq <= mark);
  if (!newest) return new Array<null>(pages).fill(null);
  if (newest.zero) return new Array<null>(pages).fill(null);
  const from = newest.pages ?? new Array<number>(pages).fill(newest.seq);
  const there = from.every((seq) => seq === null || versions.some((each) => each.seq === seq));
  return there ? [...from] : 'missing';
}

const scene = fc.tuple(writes, fc.uniqueArray(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 4 }));
const written = (list: readonly (number | 'zero')[]): Written[] =>
  list.map((write, at) => ({ seq: 2 * (at + 1), write }));

it('leaves every kept point and everything newer as it was, also when the index is made anew of any records that are left', () => {
  fc.assert(
    fc.property(scene, fc.infiniteStream(fc.boolean()), ([list, marksUnsorted], stays) => {
      const all = indexed(written(list));
      const marks = [...marksUnsorted].sort((a, b) => a - b);
      const live = liveVersions(all, marks);
      const newestMark = marks.at(-1) ?? 0;
      const asked = [...marks, ...all.map(({ seq }) => seq).filter((seq) => seq > newestMark)];
      const left = all.filter((_, at) => live[at]);
      // What fold took out of the index is still in some segment, or is not any more.
      const found = written(list).filter((_, at) => live[at] === true || stays.next().value === true);
      const anew = indexed(found);
      for (const mark of asked) {
        expect(readAt(left, mark)).toEqual(readAt(all, mark));
        expect(readAt(anew, mark)).toEqual(readAt(all, mark));
      }
      // The newest of all is what the next record stands on.
      expect(left.at(-1)?.value).toEqual(all.at(-1)?.value);
    }),
    { numRuns: 5_000 },
  );
});

it('leaves nothing that no one reads: whatever else is taken changes what some kept point reads, now or from an index made anew', () => {
  fc.assert(
    fc.property(scene, ([list, marksUnsorted]) => {
      const all = indexed(written(list));
      const marks = [...marksUnsorted].sort((a, b) => a - b);
      const newestMark = marks.at(-1) ?? 0;
      const live = liveVersions(all, marks);
      all.forEach((version, at) => {
        if (live[at] !== true || version.seq > newestMark || at === all.length - 1 || version.zero) return;
        const without = all.filter((_, other) => other !== at && live[other] === true);
        const asked = [...marks, ...all.filter(({ seq }) => seq > newestMark).map(({ seq }) => seq)];
        expect(asked.some((mark) => JSON.stringify(readAt(without, mark)) !== JSON.stringify(readAt(all, mark)))).toBe(
          true,
        );
      });
    }),
    { numRuns: 2_000 },
  );
});

it('says of a value what the codec says of it', () => {
  const [version] = indexed([{ seq: 5, write: 3 }]);
  expect(readRecord(1, 5, version?.value ?? Buffer.alloc(0)).pages).toEqual([5, 5, ...new Array<null>(14).fill(null)]);
});

it('takes the emptiest segments until little of all is dead, those under half live in any case, nearly full ones never', () => {
  const use = (...lives: number[]): { segment: number; bytes: number; live: number }[] =>
    lives.map((live, at) => ({ segment: at + 1, bytes: 100, live }));
  const chosen = (...lives: number[]): number[] => segmentsToCompact(use(...lives)).map(({ segment }) => segment);
  expect(chosen(95, 92, 100)).toEqual([]);
  expect(chosen(100, 0, 49, 100, 100, 100, 100, 100, 100)).toEqual([2, 3]);
  // 40 of 260 dead are few enough, 60 of 240 are not.
  expect(chosen(80, 90, 90)).toEqual([]);
  expect(chosen(70, 80, 90)).toEqual([1]);
  expect(chosen(91, 91, 91)).toEqual([]);
  expect(chosen()).toEqual([]);
});
