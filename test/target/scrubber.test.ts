/** Bits that flip in what is stored, found while the store is in use: what is told, which points are hit, and what the search may cost. */
import { rm, stat } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { RecordIndex } from '../../src/store/record-index.ts';
import { recordChange } from '../../src/store/repairs.ts';
import { readProgress } from '../../src/store/scrub-progress.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { ScrubPace } from '../../src/target/scrub-pace.ts';
import { Scrubber } from '../../src/target/scrubber.ts';
import { runOf } from '../layers.ts';
import { MachineLife } from '../store/machine-fixture.ts';
import { unreadable } from '../store/unreadable.ts';
import { silent } from './peer.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

function place(block: number, seq: number): { segment: number; payloadOffset: number } {
  const entry = life.store.storedRecords().entry(0, block, seq);
  invariant(entry, `block ${block} of layer ${seq} is in the index`);
  return entry;
}

async function flipPayload(block: number, seq: number): Promise<void> {
  const { segment, payloadOffset } = place(block, seq);
  await life.flip(segment, payloadOffset + 3);
}

/** Where the entry of a layer's only batch begins, in a layer of so many records. */
function batchAt(seq: number, first: number, records: number): { segment: number; offset: number } {
  const { segment, payloadOffset } = place(first, seq);
  return { segment, offset: payloadOffset - records * 72 - 128 };
}

interface Scrubbed {
  readonly scrubber: Scrubber;
  readonly counters: ReturnType<typeof newTargetCounters>;
  readonly asked: number[];
  readonly said: string[];
}

/** A scrubber that takes what it gets; passes are made by the test. */
function scrubberOf(clock: Clock = systemClock, share = 1): Scrubbed {
  const counters = newTargetCounters();
  const [asked, said]: [number[], string[]] = [[], []];
  const scrubber = new Scrubber({
    store: life.store,
    clock,
    counters,
    logger: silent((message) => void said.push(message)),
    pace: new ScrubPace({ clock, share, isBusy: () => false }),
    damaged: (_, blocks) => asked.push(...blocks),
    proofsWanted: () => undefined,
  });
  return { scrubber, counters, asked, said };
}

async function scrubbed(): Promise<Scrubbed> {
  const made = scrubberOf();
  await made.scrubber.load();
  await made.scrubber.pass();
  await life.prove();
  return made;
}

const seqsOf = (): number[] => life.store.points.points.map(({ disks }) => disks[0]?.layers?.last ?? 0);

describe('a flipped bit', () => {
  it('in what all points have taken over is on record at each of them, once', async () => {
    await life.point(some(3));
    await life.point(some(1, 7));
    await life.prove();
    await flipPayload(1, seqsOf()[0] ?? 0);
    const { counters, asked, said } = await scrubbed();
    expect(life.states()).toEqual(['damaged', 'damaged']);
    expect([...(life.store.points.damaged.get(1)?.get(0) ?? [])]).toEqual([1]);
    expect([counters.scrubDamage, asked]).toEqual([1, [1]]);
    expect(said.filter((line) => line.startsWith('scrub: ')).length).toBe(1);
    const again = await scrubbed();
    expect([again.counters.scrubDamage, again.asked]).toEqual([0, []]);
    expect(again.said).toEqual(['everything stored was checked']);
    // Who has forgotten what was found says it again, and points.log nothing.
    await rm(life.path('scrub.json'));
    const { size } = await stat(life.path('points.log'));
    expect((await scrubbed()).asked).toEqual([]);
    expect((await stat(life.path('points.log'))).size).toBe(size);
  });

  it('in a version that was overwritten hits the points before that, and no others', async () => {
    await life.point(some(3));
    await life.point(some(2));
    await life.point(some(1, 2));
    await life.point(some(1, 9));
    await life.prove();
    const [, second = 0] = seqsOf();
    await life.point([{ block: 0 }]);
    await life.prove();
    await flipPayload(0, second);
    const { asked } = await scrubbed();
    expect(life.states()).toEqual(['proven', 'damaged', 'damaged', 'damaged', 'proven']);
    // The source's content is in the newest point already.
    expect(asked).toEqual([]);
  });

  it('in pages that later records lean on hits their points, too', async () => {
    await life.point(some(2));
    await life.point([{ block: 0 }]);
    const second = seqsOf()[1] ?? 0;
    await life.point([{ block: 0, mask: 5 }]);
    await life.point([{ block: 0, mask: 6 }]);
    await life.point([{ block: 0 }]);
    await life.prove();
    await flipPayload(0, second);
    await scrubbed();
    expect(life.states()).toEqual(['proven', 'damaged', 'damaged', 'damaged', 'proven']);
  });

  it('in a record no point reads is told and hits none', async () => {
    const first = await life.layer(some(2));
    const second = await life.layer(some(2));
    await life.commit(runOf([first, second]), 4);
    await life.prove();
    await flipPayload(1, first);
    const { counters, said } = await scrubbed();
    expect(life.states()).toEqual(['proven']);
    expect(counters.scrubDamage).toBe(0);
    expect(said).toContain('stored bytes are damaged');
  });

  it('in a row is damage of that block alone, though the index still knows better', async () => {
    await life.point(some(4));
    await life.point([{ block: 2, mask: 1 }]);
    await life.point([{ block: 2 }]);
    await life.prove();
    const [first = 0] = seqsOf();
    const { segment, offset } = batchAt(first, 0, 4);
    // The tag of the third row.
    await life.flip(segment, offset + 128 + 2 * 72 + 60);
    await scrubbed();
    expect(life.states()).toEqual(['damaged', 'damaged', 'proven']);
    expect([...(life.store.points.damaged.get(1)?.get(0) ?? [])]).toEqual([2]);
  });

  it.each([
    ['the header of a batch', 20],
    ['what a batch says of itself', 70],
  ])('in %s is damage of all its records', async (_, at) => {
    await life.point(some(1, 9));
    await life.point(some(3));
    await life.prove();
    const { segment, offset } = batchAt(seqsOf()[1] ?? 0, 0, 3);
    await life.flip(segment, offset + at);
    await scrubbed();
    expect(life.states()).toEqual(['proven', 'damaged']);
    expect([...(life.store.points.damaged.get(2)?.get(0) ?? [])]).toEqual([0, 1, 2]);
  });

  it('in the entry that begins a layer is damage of all it holds', async () => {
    await life.point(some(1, 9));
    await life.point(some(3));
    await life.prove();
    const { segment, offset } = batchAt(seqsOf()[1] ?? 0, 0, 3);
    await life.flip(segment, offset - 40);
    await scrubbed();
    expect(life.states()).toEqual(['proven', 'damaged']);
    expect([...(life.store.points.damaged.get(2)?.get(0) ?? [])]).toEqual([0, 1, 2]);
  });
});

describe('the index', () => {
  it('whose Merkle nodes are not right gets others, and no point suffers', async () => {
    await life.point(some(3));
    await life.point(some(1));
    await life.point(some(1, 1500));
    await life.prove();
    const disk = await life.disk();
    await life.store.noteNodes(disk, 2, [{ node: 0, hash: Buffer.alloc(32, 7) }]);
    const { counters, said } = await scrubbed();
    expect(said.filter((line) => line.includes('Merkle nodes')).length).toBe(1);
    expect([counters.scrubDamage, counters.integrityErrors]).toEqual([0, 1]);
    expect(life.states()).toEqual(['proven', 'proven', 'proven']);
    expect((await scrubbed()).counters.integrityErrors).toBe(0);
  });

  it('that says something else than a row is mended, and no point suffers', async () => {
    await life.point(some(3));
    await life.prove();
    const [seq = 0] = seqsOf();
    await life.close();
    const index = await RecordIndex.open({ files: posixFiles, directory: life.path('index'), bootId: 'boot' });
    const entry = index.get(0, 1, seq);
    invariant(entry, 'the record is there');
    index.rewrite([recordChange(0, { ...entry, nonce: entry.nonce + 1, tag: Buffer.alloc(16) })]);
    await index.close(true);
    life = await MachineLife.open(life.directory, posixFiles, life.image);
    const { counters } = await scrubbed();
    expect([counters.integrityErrors, counters.scrubDamage, life.states()]).toEqual([1, 0, ['proven']]);
    expect((await scrubbed()).counters.integrityErrors).toBe(0);
  });

  it('that lacks records condemns the points that read them, though nobody knows which', async () => {
    await life.point(some(3));
    life = await life.again();
    await life.point(some(2, 1));
    await life.point(some(1, 9));
    await life.point(some(2, 1));
    await life.prove();
    const { segment, offset } = batchAt(seqsOf()[1] ?? 0, 1, 2);
    await life.close();
    await life.flip(segment, offset + 20);
    await rm(life.path('index'), { recursive: true });
    life = await MachineLife.open(life.directory, posixFiles, life.image);
    await scrubbed();
    expect(life.states()).toEqual(['proven', 'damaged', 'damaged', 'proven']);
    expect([...(life.store.points.damaged.get(3)?.get(0) ?? [])]).toEqual([]);
  });
});

describe('a pass', () => {
  it('covers every byte points rely on, and says since when', async () => {
    await life.point(some(3));
    life = await life.again();
    await life.point(some(3));
    const before = Date.now();
    const { scrubber, counters } = await scrubbed();
    const bytes = [...life.store.storedRecords().lengths().values()].reduce((sum, each) => sum + each, 0);
    // Beside the headers of the two segments.
    expect(counters.scrubbedBytes).toBe(bytes - 2 * 64);
    expect(scrubber.coverage).toBe(1);
    expect(scrubber.checkedSinceMs).toBeGreaterThanOrEqual(before);
    await life.point(some(3));
    expect(scrubber.coverage).toBeLessThan(1);
    expect(scrubber.coverage).toBeGreaterThan(0.5);
  });

  it('goes on in the next run where it was stopped', async () => {
    for (let round = 0; round < 3; round += 1) {
      await life.point(some(4));
      life = await life.again();
    }
    await life.point(some(4));
    let steps = 0;
    const stopping: Clock = {
      ...systemClock,
      monotonicMs: () => {
        steps += 1;
        // Two readings a step: in the middle of the third segment.
        if (steps === 30) void made.scrubber.stop();
        return steps;
      },
    };
    const made = scrubberOf(stopping);
    await expect(made.scrubber.pass()).rejects.toThrow();
    const done = await readProgress(posixFiles, life.path());
    expect(done.startedMs).not.toBeNull();
    expect(done.position.segment).toBeGreaterThan(1);
    const covered = made.scrubber.coverage ?? 0;
    expect([covered > 0.2, covered < 1]).toEqual([true, true]);
    life = await life.again();
    const rest = await scrubbed();
    const bytes = [...life.store.storedRecords().lengths().values()].reduce((sum, each) => sum + each, 0);
    expect(rest.scrubber.coverage).toBe(1);
    expect(rest.counters.scrubbedBytes).toBeLessThan(bytes * 0.8);
    expect(rest.counters.scrubbedBytes).toBeGreaterThan(0);
  });
});

describe('a pass over one long segment', () => {
  it('goes on in the middle of it', async () => {
    for (let round = 0; round < 20; round += 1) await life.point(some(2));
    let steps = 0;
    const made = scrubberOf({
      ...systemClock,
      // Each step takes so long that its end is noted.
      monotonicMs: () => {
        steps += 1;
        if (steps === 60) void made.scrubber.stop();
        return steps * limits.target.scrubSaveMs;
      },
    });
    await expect(made.scrubber.pass()).rejects.toThrow();
    const bytes = [...life.store.storedRecords().lengths().values()].reduce((sum, each) => sum + each, 0);
    const rest = await scrubbed();
    expect([rest.scrubber.coverage, rest.counters.scrubbedBytes + made.counters.scrubbedBytes]).toEqual([
      1,
      bytes - 64,
    ]);
    expect(made.counters.scrubbedBytes).toBeGreaterThan(0);
  });
});

describe('a sector the medium does not give back', () => {
  it('is damage after some tries, and what lies around it is checked', async () => {
    await life.point(some(3));
    await life.point(some(1, 7));
    await life.prove();
    const { segment, payloadOffset } = place(1, seqsOf()[0] ?? 0);
    const sleeps: number[] = [];
    const clock: Clock = { ...systemClock, sleep: (ms) => (sleeps.push(ms), Promise.resolve()) };
    let broken = false;
    life = await life.again(unreadable(life.segment(segment), { offset: payloadOffset, broken: () => broken }));
    broken = true;
    const made = scrubberOf(clock);
    await made.scrubber.pass();
    expect([made.counters.scrubDamage, made.asked]).toEqual([1, [1]]);
    expect(sleeps.filter((ms) => ms === limits.target.scrubRetryMs).length).toBe(limits.target.unreadableTriesMax - 1);
    expect([...(life.store.points.damaged.get(1)?.get(0) ?? [])]).toEqual([1]);
    expect(made.scrubber.coverage).toBe(1);
  });
});

describe('the pace', () => {
  /** A clock whose time passes by work and sleep alone. */
  function madeUpClock(): { clock: Clock; work: (ms: number) => void; slept: () => number } {
    let [now, slept] = [0, 0];
    const clock: Clock = {
      ...systemClock,
      monotonicMs: () => now,
      sleep: (ms) => {
        now += ms;
        slept += ms;
        return Promise.resolve();
      },
    };
    return {
      clock,
      work: (ms) => {
        now += ms;
      },
      slept: () => slept,
    };
  }

  it.each([0.05, 0.5, 1])('keeps a share of %d, all machines together', async (share) => {
    const { clock, work } = madeUpClock();
    const pace = new ScrubPace({ clock, share, isBusy: () => false });
    const { signal } = new AbortController();
    let worked = 0;
    const machine = async (ms: number): Promise<void> => {
      for (let step = 0; step < 50; step += 1) {
        await pace.run(() => {
          work(ms);
          worked += ms;
          return Promise.resolve();
        }, signal);
        // Never more than the share, but for what one pause is worth.
        expect(worked * share).toBeLessThanOrEqual(worked);
        expect(worked - (limits.target.scrubPauseMs + ms)).toBeLessThanOrEqual(clock.monotonicMs() * share + 1e-6);
      }
    };
    await Promise.all([machine(3), machine(0.25)]);
    expect(worked / clock.monotonicMs()).toBeGreaterThan(share * 0.9);
  });

  it('waits for ingest and proof, and not for ever', async () => {
    const { clock, slept } = madeUpClock();
    let busy = 3;
    const pace = new ScrubPace({ clock, share: 1, isBusy: () => busy-- > 0 });
    const { signal } = new AbortController();
    await pace.run(() => Promise.resolve(), signal);
    expect(slept()).toBe(3 * limits.target.scrubPauseMs);
    busy = Infinity;
    await pace.run(() => Promise.resolve(), signal);
    expect(slept()).toBe(3 * limits.target.scrubPauseMs + limits.target.scrubYieldMs);
  });

  it('ends at once when it is told to', async () => {
    const stop = new AbortController();
    stop.abort(new Error('stopped'));
    const pace = new ScrubPace({ clock: systemClock, share: 0.5, isBusy: () => false });
    await expect(pace.run(() => Promise.resolve(), stop.signal)).rejects.toThrow('stopped');
  });
});
