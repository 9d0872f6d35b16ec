/**
 * Write order: a point is the disk at one instant of its writer's life. Several lanes write slots of their own, each write stamped with its
 * number through and through; flushes and writes with FUA lie between them. What was issued and answered when is noted on one counter.
 *
 * Judged without anything the product says about its cuts: a point is right if there is an instant at which every write answered before is in
 * it and none issued later; and what a flush covered before the cut is in it. No write is there in part.
 *
 * TIDEMARK_TEST_SEED plays a run again, TIDEMARK_TEST_SOAK=1 takes ten times the points.
 */
import { readFile } from 'node:fs/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { command } from '../product/command.ts';
import { diceOf, KiB, MiB, seedOfRun, writeImage, type Dice } from '../product/content.ts';
import { disk, machine, Scene } from '../product/scene.ts';

const pointsWanted = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 200 : 20;
const laneCount = 6;
const slotsPerLane = 24;
/** Slots straddle pages and blocks, and begin at odd sectors. */
const slotStride = 97 * 512;
const diskBytes = 8 * MiB;

interface StampedWrite {
  /** Unique, rising; 0 stands for what was there before. */
  readonly number: number;
  readonly offset: number;
  readonly length: number;
  /** On the common counter. */
  readonly issuedAt: number;
  answeredAt: number;
}

/** Wall clock at which a flush was answered, and the counter when it was issued: whatever was answered before is on the disk. */
interface Barrier {
  readonly doneMs: number;
  readonly covers: number;
}

const stampBytes = 16;

function stamped(number: number, length: number): Buffer {
  const stamp = Buffer.alloc(stampBytes);
  stamp.writeUInt32BE(number, 0);
  stamp.writeUInt32BE(Math.imul(number, 2654435761) >>> 0, 4);
  stamp.writeUInt32BE(length, 8);
  return Buffer.alloc(length, stamp);
}

class Workload {
  readonly writes: StampedWrite[] = [];
  readonly barriers: Barrier[] = [];
  readonly #client: NbdClient;
  #tick = 0;
  #stopping = false;
  #done: Promise<unknown> = Promise.resolve();

  constructor(client: NbdClient) {
    this.#client = client;
  }

  start(dice: Dice): void {
    this.#done = Promise.all(Array.from({ length: laneCount }, (_, lane) => this.#lane(lane, dice)));
    this.#done.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #lane(lane: number, dice: Dice): Promise<void> {
    while (!this.#stopping) {
      const offset = (lane * slotsPerLane + dice.between(0, slotsPerLane)) * slotStride;
      const issuedAt = (this.#tick += 1);
      const length = dice.between(1, slotStride / 512 + 1) * 512;
      const write = { number: this.writes.length + 1, offset, length, issuedAt, answeredAt: Infinity };
      this.writes.push(write);
      const fua = dice.between(0, 10) === 0;
      await this.#client.write(stamped(write.number, length), offset, { fua });
      write.answeredAt = this.#tick += 1;
      if (dice.between(0, 6) === 0) await this.#flush();
      await systemClock.sleep(dice.between(0, 6));
    }
  }

  async #flush(): Promise<void> {
    const covers = (this.#tick += 1);
    await this.#client.flush();
    this.barriers.push({ doneMs: Date.now(), covers });
  }
}

/** What a slot must hold when its newest write is `newest`; 0: none yet. */
function slotAsOf(history: readonly StampedWrite[], newest: number, before: Buffer): Buffer {
  const content = Buffer.from(before);
  for (const write of history) if (write.number <= newest) stamped(write.number, write.length).copy(content);
  return content;
}

/** What is wrong with a point, or null. `base`: the disk before the first write. */
function orderFault(content: Buffer, base: Buffer, workload: Workload, cutTimeMs: number): string | null {
  const slots = Map.groupBy(workload.writes, (write) => write.offset);
  let presentIssuedAt = 0;
  let absentAnsweredAt = Infinity;
  for (const [offset, history] of slots) {
    const found = content.subarray(offset, offset + slotStride);
    const before = base.subarray(offset, offset + slotStride);
    const stamp = found.readUInt32BE(0);
    const newest = history.some(({ number }) => number === stamp) ? stamp : 0;
    if (!slotAsOf(history, newest, before).equals(found)) return `the slot at ${offset} holds a part of a write`;
    for (const { number, issuedAt, answeredAt } of history) {
      if (number <= newest) presentIssuedAt = Math.max(presentIssuedAt, issuedAt);
      else absentAnsweredAt = Math.min(absentAnsweredAt, answeredAt);
    }
  }
  if (absentAnsweredAt < presentIssuedAt) return 'a write is there that was issued after a missing one was answered';
  // The millisecond of the cut is no order.
  const covered = workload.barriers.filter(({ doneMs }) => doneMs < cutTimeMs).map(({ covers }) => covers);
  if (absentAnsweredAt < Math.max(0, ...covered)) return 'a write is missing that was flushed before the cut';
  return null;
}

describe('write order', () => {
  it(
    `${pointsWanted} points under load are each the disk at one instant`,
    { timeout: 40_000 + pointsWanted * 3_000 },
    async () => {
      const seed = seedOfRun('write order');
      const scene = await Scene.open({
        image: (path) => writeImage(path, diskBytes, diskBytes - 64 * KiB, seed),
        writer: { from: 0, pauseMs: 0 },
      });
      onTestFinished(() => scene.close());
      const base = await readFile(scene.image);
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.site.startAgent();
      const client = await connectNbd(
        { unixPath: scene.site.socketOf(disk) },
        { exportName: disk, clock: systemClock },
      );
      const workload = new Workload(client);
      workload.start(diceOf(seed));
      let seen = 0;
      const points = await scene.untilPoints(
        `${pointsWanted} points`,
        (all) => {
          if (all.length > seen) scene.pointNow();
          seen = all.length;
          return all.length >= pointsWanted;
        },
        pointsWanted * 3_000,
      );
      await workload.stop();
      await client.close();
      const to = scene.file('exported.raw');
      const faults: string[] = [];
      for (const { point, cutTimeMs } of points) {
        const words = ['export', machine, disk, '--data', scene.site.targetData, '--point', String(point), '--yes'];
        expect((await command([...words, '--to', to])).code).toBe(0);
        const fault = orderFault(await readFile(to), base, workload, cutTimeMs);
        if (fault !== null) faults.push(`point ${point}: ${fault}`);
      }
      expect(faults).toEqual([]);
      const { writes, barriers } = workload;
      process.stderr.write(
        `write order: ${points.length} points, ${writes.length} writes, ${barriers.length} flushes\n`,
      );
    },
  );
});
