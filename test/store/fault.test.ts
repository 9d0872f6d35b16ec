/**
 * Every operation that changes the disk fails once, in each way it can, and after that the process is killed or the power goes. What
 * was acknowledged must be there; what was not may be, but never as the middle of anything.
 */
import { describe, expect, it } from 'vitest';
import { isProblem } from '../../src/kit/problem.ts';
import type { SegmentLog } from '../../src/store/segment-log.ts';
import { PointsLog, readPoints } from '../../src/store/points-log.ts';
import {
  appendLayer,
  emptyDisk,
  layerOf,
  machineId,
  nameOfBatch,
  openLog,
  readAll,
  sealedBody,
} from './segment-fixture.ts';
import { Dice, worstDice } from '../simulated-bytes.ts';
import type { Fault } from '../simulated-file.ts';

const faults: Readonly<Record<string, Fault>> = {
  'EIO though all of it was done': { code: 'EIO', wrote: 'all' },
  ENOSPC: { code: 'ENOSPC', wrote: 'half' },
  'a short write': { code: 'EIO', wrote: 'half' },
  EINTR: { code: 'EINTR' },
};

/** Writes layers until `layers` were acknowledged whole; one that failed is followed by the next, as a source does. */
async function writeLayers(log: SegmentLog, layers: number, acknowledged: string[]): Promise<void> {
  let whole = 0;
  for (let seq = 1; whole < layers; seq += 1) {
    try {
      // Space is back at once here; a session would wait for it.
      await log.checkSpace();
      const begun = log.append({ type: 'layer', diskNo: 0, layer: layerOf(seq) });
      const pending: Promise<unknown>[] = [begun.durable];
      for (let batch = 0; batch < 6; batch += 1) {
        const body = sealedBody(seq, batch, 90 + batch);
        const { position, durable } = log.append({ type: 'batch', diskNo: 0, body });
        const noted = durable.then(() => acknowledged.push(nameOfBatch(position, 0, body)));
        noted.catch(() => undefined);
        pending.push(noted);
        // Some groups of one, some of several.
        if (batch % 2 === 0) await durable;
      }
      const settled = await Promise.allSettled(pending);
      if (settled.every(({ status }) => status === 'fulfilled')) whole += 1;
    } catch (error) {
      if (!isProblem(error)) throw error;
      expect(error.retryable).toBe(true);
      expect(['store-failed', 'full']).toContain(error.code);
    }
    expect(seq).toBeLessThan(20);
  }
}

/** Batches seen, by layer, must count 0, 1, 2, … */
function expectPrefixes(seen: readonly string[]): void {
  const next = new Map<string, number>();
  for (const name of seen) {
    const match = /batch (\d+)\/(\d+)/.exec(name);
    if (!match?.[1]) continue;
    expect(Number(match[2]), name).toBe(next.get(match[1]) ?? 0);
    next.set(match[1], Number(match[2]) + 1);
  }
}

describe('a segment log whose n-th operation fails', () => {
  for (const [name, fault] of Object.entries(faults)) {
    it(`with ${name}: nothing acknowledged is lost, no file is used after its failure`, async () => {
      let n = 1;
      for (; ; n += 1) {
        const disk = emptyDisk();
        const { log } = await openLog(disk);
        const failed: string[] = [];
        disk.failNth(n, fault, (what) => failed.push(what));
        const acknowledged: string[] = [];
        await writeLayers(log, 4, acknowledged);
        expect(disk.violations).toEqual([]);
        const extents = log.extentsSince(null);

        const lost = disk.afterPowerLoss(new Dice(n));
        const after = await readAll(lost, extents);
        expect(after.outcome.damage).toEqual([]);
        expect(after.seen).toEqual(expect.arrayContaining(acknowledged));
        expectPrefixes(after.seen);

        // What a restarted target counts as durable must survive the next power loss too.
        const killed = disk.copy();
        const reopened = await openLog(killed, extents);
        expect(reopened.seen).toEqual(expect.arrayContaining(acknowledged));
        const more = await appendLayer(reopened.log, 0, 90, 2);
        const end = await readAll(killed.afterPowerLoss(new Dice(n + 1)), extents);
        expect(end.seen).toEqual([...reopened.seen, ...more]);
        expect(end.outcome.damage).toEqual([]);
        if (failed.length === 0) break;
      }
      // It did fail, at each of them.
      expect(n).toBeGreaterThan(40);
    });
  }

  it('with a failed sync as its last deed: what the page cache still shows is stored again before it counts', async () => {
    const disk = emptyDisk();
    const { log } = await openLog(disk);
    await appendLayer(log, 0, 1, 2);
    disk.failNth(2, { code: 'EIO', wrote: 'all' });
    await expect(log.append({ type: 'batch', diskNo: 0, body: sealedBody(1, 2) }).durable).rejects.toThrow();
    const killed = disk.copy();
    const { seen } = await openLog(killed);
    expect(seen).toHaveLength(4);
    expect((await readAll(killed.afterPowerLoss(worstDice))).seen).toEqual(seen);
    // Without the opening in between it is not on the disk: that is what the opening has to mend.
    expect((await readAll(disk.afterPowerLoss(worstDice))).seen).toHaveLength(3);
  });

  it('while opening: refuses to open, and opens the next time', async () => {
    for (let n = 1; ; n += 1) {
      const disk = emptyDisk();
      const names = await appendLayer((await openLog(disk)).log, 0, 1, 5);
      const killed = disk.copy();
      const failed: string[] = [];
      killed.failNth(n, { code: 'EIO', wrote: 'all' }, (what) => failed.push(what));
      const opened = await openLog(killed).catch((error: unknown) => {
        // What fails before anything is repaired has the system's own code.
        expect(error).toMatchObject({ code: expect.stringMatching(/^(store-failed|EIO)$/) as string });
        return null;
      });
      const { seen } = opened ?? (await openLog(killed));
      expect(seen).toEqual(names);
      if (failed.length === 0) break;
    }
  });
});

describe('a points log whose n-th operation fails', () => {
  const path = '/data/machines/m/points.log';
  const gap = (at: number) =>
    ({ type: 'gap', body: { atMs: at, points: 1, reason: 'other', detail: `number ${at}` } }) as const;

  for (const [name, fault] of Object.entries(faults)) {
    it(`with ${name}: stops, or says full and goes on; what was acknowledged is there`, async () => {
      for (let n = 1; ; n += 1) {
        const disk = emptyDisk();
        const log = await PointsLog.open({ files: disk, path, machineId });
        const failed: string[] = [];
        disk.failNth(n, fault, (what) => failed.push(what));
        const acknowledged: number[] = [];
        let stopped = false;
        for (let at = 1; at <= 6; at += 1) {
          try {
            await log.append(gap(at));
            expect(stopped).toBe(false);
            acknowledged.push(at);
          } catch (error) {
            if (isProblem(error) && error.code === 'full') continue;
            expect(error).toMatchObject({ code: 'points-log-sync-failed', retryable: false });
            stopped = true;
          }
        }
        expect(disk.violations).toEqual([]);
        expect(log.view.gaps.map(({ atMs }) => atMs)).toEqual(acknowledged);
        const killed = disk.copy();
        for (const survivor of [disk.afterPowerLoss(new Dice(n)), killed]) {
          const again = await PointsLog.open({ files: survivor, path, machineId });
          const found = again.view.gaps.map(({ atMs }) => atMs);
          expect(found.slice(0, acknowledged.length)).toEqual(acknowledged);
          await again.append(gap(99));
          const { view, tail } = await readPoints({ files: survivor.afterPowerLoss(worstDice), path, machineId });
          expect(view.gaps.map(({ atMs }) => atMs)).toEqual([...found, 99]);
          expect(tail).toBe('none');
        }
        if (failed.length === 0) break;
        expect(n).toBeLessThan(100);
      }
    });
  }
});
