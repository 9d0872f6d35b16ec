/**
 * Write order: a point is all disks of the machine at one instant of its writer's life. Several lanes write slots of their own, on two disks by
 * turns, each write stamped with its number through and through; zeros and trims, flushes and writes with FUA lie between them. What was issued
 * and answered when is noted on one counter over both disks.
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

const disks = [disk, 'vdb'] as const;

interface NotedWrite {
  /** Unique, rising. */
  readonly number: number;
  /** Index into `disks`. */
  readonly at: number;
  readonly offset: number;
  readonly length: number;
  readonly kind: 'stamps' | 'zeros' | 'trim';
  /** On the common counter. */
  readonly issuedAt: number;
  answeredAt: number;
}

/** Wall clock at which a flush was answered, and the counter when it was issued: whatever was answered before is on its disk. */
interface Barrier {
  readonly doneMs: number;
  readonly covers: number;
}

const stampBytes = 16;

/** What a write makes of its place. */
function contentOf({ kind, number, length }: NotedWrite): Buffer {
  if (kind !== 'stamps') return Buffer.alloc(length);
  const stamp = Buffer.alloc(stampBytes);
  stamp.writeUInt32BE(number, 0);
  stamp.writeUInt32BE(Math.imul(number, 2654435761) >>> 0, 4);
  stamp.writeUInt32BE(length, 8);
  return Buffer.alloc(length, stamp);
}

class Workload {
  readonly writes: NotedWrite[] = [];
  readonly barriers: Barrier[] = [];
  /** One for each of `disks`. */
  readonly #clients: readonly NbdClient[];
  #tick = 0;
  #stopping = false;
  #done: Promise<unknown> = Promise.resolve();

  constructor(clients: readonly NbdClient[]) {
    this.#clients = clients;
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
      for (const [at, client] of this.#clients.entries()) await this.#write(lane, at, client, dice);
      await systemClock.sleep(dice.between(0, 6));
    }
  }

  async #write(lane: number, at: number, client: NbdClient, dice: Dice): Promise<void> {
    const offset = (lane * slotsPerLane + dice.between(0, slotsPerLane)) * slotStride;
    const length = dice.between(1, slotStride / 512 + 1) * 512;
    const kind = (['zeros', 'trim'] as const)[dice.between(0, 10)] ?? 'stamps';
    const issuedAt = (this.#tick += 1);
    const write: NotedWrite = {
      number: this.writes.length + 1,
      at,
      offset,
      length,
      kind,
      issuedAt,
      answeredAt: Infinity,
    };
    this.writes.push(write);
    const fua = dice.between(0, 10) === 0;
    if (kind === 'stamps') await client.write(contentOf(write), offset, { fua });
    else if (kind === 'zeros') await client.zero(offset, length, { fua });
    else await client.trim(offset, length, { fua });
    write.answeredAt = this.#tick += 1;
    if (dice.between(0, 6) === 0) await this.#flush(client);
  }

  async #flush(client: NbdClient): Promise<void> {
    const covers = (this.#tick += 1);
    await client.flush();
    this.barriers.push({ doneMs: Date.now(), covers });
  }
}

/** On the common counter, both ends included. */
type Span = readonly [from: number, to: number];

/** When a slot with this history, in order of issue, was as it is found: one span for each write that may be its newest. */
function spansOf(history: readonly NotedWrite[], found: Buffer, before: Buffer): Span[] {
  const content = Buffer.from(before);
  const spans: Span[] = [];
  const look = (from: number, next: number): void => {
    const absent = history.slice(next).map(({ answeredAt }) => answeredAt);
    if (content.equals(found)) spans.push([from, Math.min(Infinity, ...absent)]);
  };
  look(0, 0);
  for (const [index, write] of history.entries()) {
    contentOf(write).copy(content);
    look(write.issuedAt, index + 1);
  }
  return spans;
}

/** What is wrong with a point, or null. Of each disk its content, and `bases`: what it held before the first write. */
function orderFault(
  contents: readonly Buffer[],
  bases: readonly Buffer[],
  { writes, barriers }: Workload,
  cutTimeMs: number,
): string | null {
  const slots: Span[][] = [];
  for (const history of Map.groupBy(writes, ({ at, offset }) => `${at}:${offset}`).values()) {
    const [first] = history;
    if (!first) continue;
    const slotOf = (all: readonly Buffer[]): Buffer =>
      all[first.at]?.subarray(first.offset, first.offset + slotStride) ?? Buffer.alloc(0);
    const spans = spansOf(history, slotOf(contents), slotOf(bases));
    if (spans.length === 0) return `the slot at ${first.offset} of ${disks[first.at]} holds a part of a write`;
    slots.push(spans);
  }
  // If there is an instant at all, then the latest beginning of a span is one.
  const instants = new Set(slots.flatMap((spans) => spans.map(([from]) => from)));
  const isRight = (instant: number): boolean =>
    slots.every((spans) => spans.some(([from, to]) => from <= instant && instant <= to));
  const right = [...instants].filter(isRight);
  if (right.length === 0) return 'at no instant were the disks like that';
  // The millisecond of the cut is no order.
  const covers = barriers.filter(({ doneMs }) => doneMs < cutTimeMs).map((barrier) => barrier.covers);
  const flushed = Math.max(0, ...covers);
  const ends = slots.map((spans) => Math.max(...spans.map(([, to]) => to)));
  return Math.min(...ends) < flushed ? 'a write is missing that was flushed before the cut' : null;
}

describe('write order', () => {
  it(
    `${pointsWanted} points under load are each the disk at one instant`,
    { timeout: 40_000 + pointsWanted * 3_000 },
    async () => {
      const seed = seedOfRun('write order');
      const scene = await Scene.open({
        image: (path) => writeImage(path, diskBytes, diskBytes - 64 * KiB, seed),
        moreDisks: disks.slice(1),
        writer: { from: 0, pauseMs: 0 },
      });
      onTestFinished(() => scene.close());
      const bases = await Promise.all(scene.site.options.disks.map(({ image }) => readFile(image)));
      await scene.site.startTarget();
      await scene.site.startProcessServer();
      await scene.site.startAgent();
      const clients = await Promise.all(
        disks.map((name) =>
          connectNbd({ unixPath: scene.site.socketOf(name) }, { exportName: name, clock: systemClock }),
        ),
      );
      const workload = new Workload(clients);
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
      for (const client of clients) await client.close();
      const to = scene.file('exported.raw');
      const faults: string[] = [];
      for (const { point, cutTimeMs } of points) {
        const contents: Buffer[] = [];
        for (const name of disks) {
          const words = ['export', machine, name, '--data', scene.site.targetData, '--point', String(point), '--yes'];
          expect((await command([...words, '--to', to])).code).toBe(0);
          contents.push(await readFile(to));
        }
        const fault = orderFault(contents, bases, workload, cutTimeMs);
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
