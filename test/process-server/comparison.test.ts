/** Comparing a disk through the process server: what is asked, what is answered, what a lying peer gets, what is bounded. */
import { describe, expect, it } from 'vitest';
import { Credit } from '../../src/kit/credit.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { compareChecksums } from '../../src/process-server/compare-checksums.ts';
import { SealPool } from '../../src/process-server/pool.ts';
import {
  decodeAsk,
  decodeDifference,
  encodeChecksums,
  type ChecksumRange,
  type Difference,
} from '../../src/wire/checksums.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { encodeFrame, frameType, noDisk, type Frame } from '../../src/wire/frame.ts';
import { decodeGap, encodeGap } from '../../src/wire/gap.ts';
import type { FakeAgent, FakeTarget, TargetHooks } from './fakes.ts';
import { blockSize, oneBlock, open, seqBase, theTarget, world } from './world.ts';

const blocks = 4096;
const bounds = { leaves: blocks, nodes: blocks / 1024 };
const hashBytes = limits.disk.leafBytes;

/** Checksums of a range, each made of its number; those in `changed` are other ones. */
function hashesOf({ first, count }: ChecksumRange, changed: readonly number[] = []): Uint8Array<ArrayBuffer> {
  const hashes = new Uint8Array(count * hashBytes);
  const view = new DataView(hashes.buffer);
  for (let index = 0; index < count; index += 1) {
    view.setUint32(index * hashBytes, first + index, true);
    if (changed.includes(first + index)) hashes.fill(0xaa, (index + 1) * hashBytes - 1, (index + 1) * hashBytes);
  }
  return hashes;
}

const checksums = (disk: number, range: ChecksumRange, changed: readonly number[] = []): Uint8Array =>
  encodeChecksums(disk, { ...range, hashes: hashesOf(range, changed) });
const leaves = (first: number, count: number): ChecksumRange => ({ level: 'leaves', first, count });
const nodes = (first: number, count: number): ChecksumRange => ({ level: 'nodes', first, count });

/** A target that answers what it is asked, and writes down that it was asked. */
const honest: TargetHooks = {
  onOther: ({ type, disk, body }, target) => {
    if (type === frameType.gap) target.events.push(`GAP ${decodeGap(body).reason}`);
    if (type !== frameType.ask) return;
    const range = decodeAsk(body, bounds);
    target.events.push(`ASK ${disk} ${range.level} ${range.first} ${range.count}`);
    target.send(checksums(disk, range));
  },
};

const differences = (agent: FakeAgent): Difference[] =>
  agent.frames.filter(({ type }) => type === frameType.different).map(({ body }) => decodeDifference(body, bounds));
const answered = (agent: FakeAgent, count: number): Promise<void> =>
  agent.until(() => agent.frames.filter(({ type }) => type === frameType.different).length >= count);
const asks = (target: FakeTarget): string[] => target.events.filter((event) => event.startsWith('ASK'));

describe('a comparison', () => {
  it('says which nodes differ, and which leaves with the target’s leaf of each; in order, whatever order the workers finish in', async () => {
    const here = world(honest);
    const agent = here.agent('m1');
    await open(agent, 'm1', 2);
    for (let round = 0; round < 8; round += 1) {
      agent.send(checksums(0, nodes(0, 4), [1, 3]));
      agent.send(checksums(0, leaves(1024, 1024), [1024, 1500, 2047]));
      agent.send(checksums(1, leaves(7, 1)));
      agent.send(checksums(1, leaves(0, 4096), [4095]));
      await answered(agent, 4 * (round + 1));
    }
    const frames = agent.frames.filter(({ type }) => type === frameType.different);
    expect(frames.map(({ disk }) => disk)).toEqual(Array.from({ length: 8 }, () => [0, 0, 1, 1]).flat());
    for (let at = 0; at < 32; at += 4) {
      const [first, second, third, fourth] = differences(agent).slice(at, at + 4);
      expect(first).toMatchObject({ ...nodes(0, 4), differing: [1, 3] });
      expect(first?.hashes.byteLength).toBe(0);
      expect(second).toMatchObject({ ...leaves(1024, 1024), differing: [1024, 1500, 2047] });
      const wanted = [1024, 1500, 2047].map((number) => hashesOf(leaves(number, 1)));
      expect(Buffer.from(second?.hashes ?? [])).toEqual(Buffer.concat(wanted));
      expect(third).toMatchObject({ ...leaves(7, 1), differing: [] });
      expect(fourth).toMatchObject({ ...leaves(0, 4096), differing: [4095] });
    }
    const compared = 8 * (4 + 1024 + 1 + 4096);
    expect(here.server.totals().get('m1')).toMatchObject({
      checksums: compared,
      checksumsDiffering: 8 * 6,
      checksumBytesIn: compared * hashBytes,
    });
    expect(theTarget(here).faults).toEqual([]);
    here.server.close();
  });

  it('does the same through worker threads, the largest range there is', async () => {
    const pool = new SealPool({ threads: 2 });
    const many = limits.wire.checksumsPerFrameMax;
    const wide = { leaves: many, nodes: many / 1024 };
    const here = world(
      {
        onOther: ({ disk, body }, target) => target.send(checksums(disk, decodeAsk(body, wide))),
      },
      { sealer: pool },
    );
    const agent = here.agent('m1');
    await open(agent, 'm1', 1, many * blockSize);
    const changed = [0, 1, 777, many - 1];
    agent.send(checksums(0, leaves(0, many), changed));
    await answered(agent, 1);
    const [frame] = agent.frames.filter(({ type }) => type === frameType.different);
    expect(decodeDifference(frame?.body ?? new Uint8Array(0), wide).differing).toEqual(changed);
    expect(here.server.totals().get('m1')?.compareMs).toBeGreaterThan(0);
    here.server.close();
    await pool.close();
  });

  it('takes its memory along to the worker', async () => {
    const pool = new SealPool({ threads: 1 });
    const [source, target] = [hashesOf(leaves(0, 8)).buffer, hashesOf(leaves(0, 8), [3]).buffer];
    const { differing } = await pool.compare({ disk: 0, ...leaves(0, 8), source, target });
    expect(differing).toBe(1);
    expect([source.detached, target.detached]).toEqual([true, true]);
    await pool.close();
  });

  it('asks between the batches the question came between', async () => {
    const here = world(honest);
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    await agent.batch(oneBlock(0, seqBase + 1, 0, leafKey));
    agent.send(checksums(0, leaves(0, 10)));
    await agent.batch(oneBlock(0, seqBase + 1, 1, leafKey));
    agent.send(checksums(0, nodes(0, 1)));
    agent.send(encodeGap({ atMs: 1, points: 2, reason: 'drain', detail: 'writes did not end' }));
    agent.point([0]);
    await agent.until(() => agent.committed === 1);
    await answered(agent, 2);
    expect(theTarget(here).events.slice(2)).toEqual([
      `CYCLE 0 ${seqBase + 1} v1`,
      `SEALED 0 ${seqBase + 1} 0`,
      'ASK 0 leaves 0 10',
      `SEALED 0 ${seqBase + 1} 1`,
      'ASK 0 nodes 0 1',
      'GAP drain',
      'POINT',
    ]);
    here.server.close();
  });

  it('is told to the agent by OPENED as the target said', async () => {
    const here = world({ ...honest, opened: (message) => ({ ...message, leaves: 'since' }) });
    const agent = here.agent('m1');
    await open(agent, 'm1');
    expect(agent.opened.get(0)?.leaves).toBe('since');
    here.server.close();
  });

  it('finds a difference in any byte of a checksum', () => {
    const range = leaves(5, 3);
    for (let byte = 0; byte < range.count * hashBytes; byte += 1) {
      const [source, target] = [hashesOf(range), hashesOf(range)];
      target[byte] = (target[byte] ?? 0) ^ 0x80;
      const task = { disk: 0, ...range, source: source.buffer, target: target.buffer };
      const { frame, differing } = compareChecksums(task, systemClock);
      expect(differing).toBe(1);
      const number = 5 + Math.floor(byte / hashBytes);
      const told = decodeDifference(frame.subarray(8), bounds);
      expect(told.differing).toEqual([number]);
      expect(Buffer.from(told.hashes)).toEqual(Buffer.from(target.subarray((number - 5) * hashBytes).subarray(0, 32)));
    }
  });
});

describe('an agent that', () => {
  const silent: TargetHooks = { onOther: () => undefined };
  const cases: [string, (agent: FakeAgent) => void][] = [
    ['speaks of a disk not opened', (agent) => agent.send(checksums(3, leaves(0, 1)))],
    ['asks for leaves behind the end', (agent) => agent.send(checksums(0, leaves(4096, 1)))],
    ['asks for nodes behind the end', (agent) => agent.send(checksums(0, nodes(3, 2)))],
    ['sends fewer bytes than it counts', (agent) => agent.send(checksums(0, leaves(0, 2)).subarray(0, -1))],
    ['asks, as only process servers do', (agent) => agent.send(encodeFrame(frameType.ask, 0, new Uint8Array(16)))],
    ['answers itself', (agent) => agent.send(encodeFrame(frameType.different, 0, new Uint8Array(16)))],
    ['sends a gap of no reason', (agent) => agent.send(encodeFrame(frameType.gap, noDisk, Buffer.from('{}')))],
    [
      'sends a fifth CHECKSUMS before the first was answered',
      (agent) => {
        for (let n = 0; n <= limits.wire.comparisonsMax; n += 1) agent.send(checksums(0, leaves(n, 1)));
      },
    ],
  ];
  it.each(cases)('%s → protocol-error', async (_, act) => {
    const here = world(silent);
    const agent = here.agent('m1');
    await open(agent, 'm1');
    act(agent);
    expect((await agent.connection.closed).code).toBe(wireCodes['protocol-error'].close);
    await theTarget(here).connection.closed;
    expect(here.server.sessions).toEqual([]);
  });

  it('compares before its disk is OPENED → protocol-error', async () => {
    const here = world(honest);
    const agent = here.agent('m1');
    agent.hello('m1');
    await agent.until(() => agent.frames.some(({ type }) => type === frameType.welcome));
    agent.openDisk(0, blocks * blockSize);
    agent.send(checksums(0, leaves(0, 1)));
    expect((await agent.connection.closed).code).toBe(wireCodes['protocol-error'].close);
    expect(asks(theTarget(here))).toEqual([]);
  });
});

describe('a target that', () => {
  const lies: [string, (frame: Frame) => Uint8Array][] = [
    ['answers about another level', ({ disk }) => checksums(disk, nodes(0, 2))],
    ['answers from elsewhere', ({ disk }) => checksums(disk, leaves(1, 2))],
    ['answers too much', ({ disk }) => checksums(disk, leaves(0, 3))],
    ['answers about another disk', () => checksums(1, leaves(0, 2))],
    ['answers about a disk nobody opened', () => checksums(9, leaves(0, 2))],
    ['answers what can not be understood', ({ disk }) => encodeFrame(frameType.checksums, disk, new Uint8Array(5))],
    ['compares by itself', ({ disk }) => encodeFrame(frameType.different, disk, new Uint8Array(17))],
  ];
  it.each(lies)('%s: its fault, the agent may come back', async (_, lie) => {
    const here = world({ onOther: (frame, target) => target.send(lie(frame)) });
    const agent = here.agent('m1');
    await open(agent, 'm1', 2);
    agent.send(checksums(0, leaves(0, 2)));
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
    expect(agent.error?.message).toContain('the target broke the protocol');
    expect(differences(agent)).toEqual([]);
  });

  it('sends checksums nobody asked for: likewise', async () => {
    const here = world(honest);
    const agent = here.agent('m1');
    await open(agent, 'm1');
    agent.send(checksums(0, leaves(0, 2)));
    await answered(agent, 1);
    theTarget(here).send(checksums(0, leaves(0, 2)));
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
  });
});

describe('room', () => {
  it('is shared by all sessions: a question waits until there is some, and what a session had comes back when it ends', async () => {
    const bytes = 2 * 1024 * hashBytes;
    const room = new Credit(3 * bytes);
    const questions: (() => void)[] = [];
    const here = world(
      {
        onOther: (frame, target) => {
          questions.push(() => honest.onOther?.(frame, target));
        },
      },
      { comparisonRoom: room },
    );
    const [greedy, modest] = [here.agent('m1'), here.agent('m2')];
    await open(greedy, 'm1');
    await open(modest, 'm2');
    for (let node = 0; node < 4; node += 1) greedy.send(checksums(0, leaves(node * 1024, 1024)));
    await systemClock.sleep(20);
    modest.send(checksums(0, leaves(0, 1024), [5]));
    await systemClock.sleep(20);
    expect(questions).toHaveLength(3);
    expect(room.available).toBe(0);
    // One is answered: the fourth of the first session was before the other session's.
    questions[0]?.();
    await answered(greedy, 1);
    await systemClock.sleep(20);
    expect(questions).toHaveLength(4);
    greedy.connection.close(1000, 'bye');
    await answered(modest, 0);
    await systemClock.sleep(20);
    expect(questions).toHaveLength(5);
    questions[4]?.();
    await answered(modest, 1);
    expect(differences(modest)[0]?.differing).toEqual([5]);
    expect(room.available).toBe(3 * bytes);
    here.server.close();
  });

  it('comes back from a session that ends while it waits for room, while it is compared, and when the pool fails', async () => {
    const bytes = 2 * 8 * hashBytes;
    const room = new Credit(2 * bytes);
    const finish: ((error?: Error) => void)[] = [];
    const here = world(honest, {
      comparisonRoom: room,
      sealer: {
        pending: 0,
        seal: () => Promise.reject(new Error('nothing to seal')),
        compare: (task) =>
          new Promise((resolve, reject) => {
            finish.push((error) => (error ? reject(error) : resolve(compareChecksums(task, systemClock))));
          }),
      },
    });
    const agent = here.agent('m1');
    await open(agent, 'm1');
    for (let n = 0; n < 3; n += 1) agent.send(checksums(0, leaves(n * 8, 8)));
    await systemClock.sleep(20);
    expect(finish).toHaveLength(2);
    agent.connection.close(1000, 'bye');
    await systemClock.sleep(20);
    for (const each of finish.splice(0)) each();
    await systemClock.sleep(20);
    expect(room.available).toBe(2 * bytes);

    const unlucky = here.agent('m2');
    await open(unlucky, 'm2');
    unlucky.send(checksums(0, leaves(0, 8)));
    while (finish.length === 0) await systemClock.turn();
    finish.pop()?.(new Error('the thread died'));
    await unlucky.connection.closed;
    expect(unlucky.error).toMatchObject({ code: 'internal', retryable: true });
    expect(room.available).toBe(2 * bytes);
    here.server.close();
  });

  it('no more is read from an agent whose checksums wait for their turn', async () => {
    const room = new Credit(0);
    const many = limits.wire.checksumsPerFrameMax;
    const here = world(honest, { comparisonRoom: room });
    const agent = here.agent('m1');
    await open(agent, 'm1', 1, 4 * many * blockSize);
    for (let n = 0; n < 3; n += 1) agent.send(checksums(0, leaves(n * many, many)));
    await systemClock.sleep(20);
    const taken = (): number => here.server.sessions[0]?.counters.checksumBytesIn ?? 0;
    expect(agent.connection.other?.paused).toBe(true);
    expect(taken()).toBe(many * hashBytes);
    room.give(2 * many * hashBytes);
    await systemClock.sleep(20);
    expect(taken()).toBeGreaterThan(many * hashBytes);
    here.server.close();
  });
});
