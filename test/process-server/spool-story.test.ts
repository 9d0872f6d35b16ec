/**
 * Stories of one machine and its spool under tiny limits, by the clock of the test: a target whose answers are late or lost, that goes, comes back and hears
 * nothing; agents that leave; process servers that are restarted; disks that are slow or refuse. Whatever the story, the target finds nothing to object to,
 * COMMITTED is only told of points it has, and in the end all drains, the agent goes on, and its whole window is back.
 *
 * TIDEMARK_TEST_SLOW_DISK=1 lets every second file operation take up to 12 ms of real time: that finds what goes wrong between an operation and its end.
 */
import { randomBytes } from 'node:crypto';
import { afterEach, expect, it, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { KiB } from '../../src/kit/sizes.ts';
import type { Connection } from '../../src/transport/connection.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { features } from '../../src/wire/features.ts';
import { frameType } from '../../src/wire/frame.ts';
import { encodePing } from '../../src/wire/ping.ts';
import { encodePointMessage } from '../../src/wire/point.ts';
import { counterOf, seqOf } from '../../src/wire/seq.ts';
import { runOf } from '../layers.ts';
import { batchOf, FakeAgent, FakeConnection, pair } from './fakes.ts';
import { LastingTarget } from './lasting-target.ts';
import { Here } from './spool-world.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<typeof import('../../src/limits.ts')>();
  const processServer = {
    ...real.limits.processServer,
    ...{ spoolTailBytes: 64 * 1024, spoolFileBytes: 192 * 1024, spoolFlightsMax: 6, controlQueueBytesMax: 24 * 1024 },
    ...{ sessionWindowBytesMin: 256 * 1024, sessionWindowBytes: 512 * 1024, spoolTrickleBytes: 64 * 1024 },
  };
  return { ...real, limits: { ...real.limits, processServer } };
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 540));
const stories = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 200 : 6));
const steps = 50;
const slowDisk = process.env['TIDEMARK_TEST_SLOW_DISK'] === '1';
const blockSize = 16_384;
const disks = [0, 1];

/** Numbers below `below`, the same ones for the same seed. */
function dice(from: number): (below: number) => number {
  let state = from >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** Answers late, in order; what was not said when its connection ended is never said. */
class LateTarget extends LastingTarget {
  delayMs = 0;
  after: (ms: number, run: () => void) => void = (_, run) => run();
  #theirs: FakeConnection | undefined;
  #untilMs = 0;
  now: () => number = () => 0;

  override async connect(): Promise<Connection> {
    const ours = await super.connect();
    this.#theirs = ours instanceof FakeConnection ? ours.other : undefined;
    return ours;
  }

  override send(type: number, frame: Uint8Array, connection = this.#theirs): void {
    this.#untilMs = Math.max(this.#untilMs, this.now() + this.delayMs);
    this.after(this.#untilMs - this.now(), () => super.send(type, frame, connection));
  }

  /** Hears nothing more on this connection. */
  deafen(): void {
    this.#theirs?.pause();
  }
}

/** A machine of two disks that sends cycles as its credit allows, and begins anew when its session ended. */
class Machine {
  readonly told: { readonly cutTimeMs: number; readonly known: boolean }[] = [];
  readonly errors = new Set<string>();
  agent: FakeAgent | null = null;
  readonly #here: Here;
  readonly #target: LateTarget;
  #behind: number[][] = [[], []];
  #counter = 0;
  #epoch = 0;
  #cut = 0;
  #heard = 0;

  constructor(here: Here, target: LateTarget) {
    this.#here = here;
    this.#target = target;
  }

  get isReady(): boolean {
    return this.agent?.over === false && this.agent.opened.size === disks.length && this.agent.creditEver > 0;
  }

  /** Connects, and waits a while for its disks to be open. */
  async begin(): Promise<void> {
    const [agentEnd, serverEnd] = pair(['process-server', 'p1'], ['agent', 'm1']);
    const agent = new FakeAgent(agentEnd);
    this.agent = agent;
    this.#heard = 0;
    this.#here.server.accept(serverEnd);
    const pings = this.#here.clock.every(1000, () => agent.send(encodePing('ping', 1)));
    void agent.connection.closed.then(() => pings.cancel());
    agent.hello('m1', { features: [features.pointsInFlight] });
    const has = (type: number): boolean => agent.over || agent.frames.some((frame) => frame.type === type);
    for (let turns = 0; turns < 30 && !has(frameType.welcome); turns += 1) await this.#pass(20);
    if (agent.over || !has(frameType.welcome)) return;
    for (const disk of disks) agent.openDisk(disk, 4096 * blockSize, blockSize);
    for (let turns = 0; turns < 60 && !this.isReady; turns += 1) await this.#pass(20);
    const [opened] = [...agent.opened.values()];
    if (!opened) return;
    this.#epoch = opened.epoch;
    this.#counter = opened.nextCounter - 1;
    this.#behind = disks.map((disk) =>
      [...this.#target.layers].flatMap(([seq, layer]) =>
        layer.disk === disk && !layer.listed && layer.batches > 0 ? [seq] : [],
      ),
    );
  }

  leave(): void {
    this.agent?.connection.close(1000, 'bye');
    this.agent = null;
  }

  /** A cycle of so many batches, with its point unless it is given up; false: there was no credit for all of it. */
  cycle(disk: number, batches: number, consistency: 'crash' | 'app' | null): boolean {
    const { agent } = this;
    if (!agent || !this.isReady) return false;
    this.#counter += 1;
    const seq = seqOf(this.#epoch, this.#counter);
    agent.cycle(disk, seq);
    for (let batch = 0; batch < batches; batch += 1) {
      const leafKey = new Uint8Array(Buffer.from('aa'.repeat(32), 'hex'));
      const noise = new Uint8Array(randomBytes(blockSize));
      const frame = batchOf({
        disk,
        seq,
        batch,
        leafKey,
        blocks: [
          [batch * 2, noise],
          [batch * 2 + 1, noise],
        ],
      });
      if (agent.creditBytes < frame.byteLength - 8) return false;
      agent.creditBytes -= frame.byteLength - 8;
      agent.send(frame);
      if (batch === 0) this.#behind[disk]?.push(seq);
    }
    if (consistency === null) return true;
    this.#cut += 1;
    const about = {
      size: blockSize,
      root: this.#cut.toString(16).padStart(64, '0'),
      kind: 'delta',
      records: 2,
      payloadBytes: 1,
    } as const;
    const each = disks.map((one) => ({ ...about, disk: one, layers: runOf(this.#behind[one] ?? []) }));
    agent.send(encodePointMessage({ cutTimeMs: this.#cut, consistency, disks: each }));
    this.#behind = [[], []];
    return true;
  }

  /** What was told since the last look. */
  listen(): void {
    const { agent } = this;
    if (!agent) return;
    for (const { type, body } of agent.frames.slice(this.#heard)) {
      if (type !== frameType.committed) continue;
      const { cutTimeMs, point } = decodeCommitted(body);
      this.told.push({ cutTimeMs, known: this.#target.points[point - 1]?.cutTimeMs === cutTimeMs });
    }
    this.#heard = agent.frames.length;
    if (agent.error) this.errors.add(`${agent.error.code}: ${agent.error.message}`);
  }

  async #pass(ms: number): Promise<void> {
    await this.#here.clock.pass(ms);
    await systemClock.sleep(0);
    this.listen();
  }
}

const all: Here[] = [];
afterEach(async () => {
  for (const each of all.splice(0)) await each.remove();
});

function world(): { readonly here: Here; readonly target: LateTarget; readonly machine: Machine } {
  const target = new LateTarget();
  const here = new Here(640 * KiB, { connectTarget: () => target.connect() });
  all.push(here);
  target.after = (ms, run) => void here.clock.after(ms, run);
  target.now = () => here.clock.monotonicMs();
  target.opened = (message) => ({
    ...message,
    nextCounter: 1 + Math.max(0, ...[...target.layers.keys()].map((seq) => counterOf(seq))),
  });
  return { here, target, machine: new Machine(here, target) };
}

type World = ReturnType<typeof world>;

function lag(): Promise<void> | undefined {
  return slowDisk && Math.random() < 0.5 ? systemClock.sleep(Math.random() * 12) : undefined;
}

/** One thing that happens; says what. */
async function step({ here, target, machine }: World, roll: (below: number) => number): Promise<string> {
  const what = roll(20);
  if (what < 9) {
    if (!machine.isReady && roll(2) === 0) await machine.begin();
    const kind = ([null, 'app', 'crash', 'crash', 'crash'] as const)[roll(5)] ?? null;
    let sent = 0;
    for (const most = 1 + roll(6); sent < most && machine.cycle(roll(2), roll(4), kind); sent += 1)
      await here.clock.pass(roll(2) * 300);
    return `cycles ${sent}`;
  }
  if (what < 11) {
    if (roll(2) === 0) target.deafen();
    await here.clock.pass(roll(50));
    target.goAway();
    return 'away';
  }
  if (what < 13) {
    target.away = false;
    return 'back';
  }
  if (what === 14) {
    target.delayMs = [0, 1, 30, 300][roll(4)] ?? 0;
    return `delay ${target.delayMs}`;
  }
  if (what === 15) {
    const slow = roll(3);
    here.files.trouble = (operation) => {
      if (operation !== 'write' || slow === 0) return lag();
      return slow === 1 ? here.clock.sleep(roll(400)) : roll(3) === 0 ? Promise.reject(new Error('EIO')) : lag();
    };
    return `disk ${slow}`;
  }
  if (what === 16 && roll(3) === 0) {
    machine.leave();
    return 'leave';
  }
  if (what === 17 && roll(6) === 0) {
    here.files.trouble = () => undefined;
    await here.restart();
    return 'restart';
  }
  const ms = [100, 1_500, 6_000][roll(3)] ?? 0;
  // Disks do not know the clock of the test.
  for (let part = 0; part < 20; part += 1) {
    await here.clock.pass(ms / 20);
    await systemClock.sleep(1);
  }
  return 'time';
}

async function story(from: number): Promise<string[]> {
  const roll = dice(from);
  const made = world();
  const { here, target, machine } = made;
  here.files.trouble = lag;
  const said: string[] = [];
  for (let each = 0; each < steps; each += 1) {
    said.push(await step(made, roll));
    await here.clock.pass(roll(3) * 40);
    await systemClock.sleep(0);
    machine.listen();
  }
  here.files.trouble = () => undefined;
  [target.away, target.delayMs] = [false, 0];
  const isOver = (): boolean => {
    machine.listen();
    return (
      here.used === 0 && here.server.spoolReport().machines.every(({ points, draining }) => points === 0 && !draining)
    );
  };
  await here.until(isOver, `seed ${from}: drained, ${said.join()}`, 100, 300_000);
  for (let tries = 0; machine.agent === null || machine.agent.committed === 0 || !machine.isReady; tries += 1) {
    if (tries > 50) throw new Error(`seed ${from}: it does not go on, ${said.join()}`);
    if (!machine.isReady) await machine.begin();
    machine.cycle(0, 1, 'crash');
    await here.clock.pass(1_500);
    await systemClock.sleep(1);
  }
  const { agent } = machine;
  // A target that is back may not be connected yet, and what has no point waits for it in memory.
  const hasWindow = (): boolean => here.server.sessions[0]?.windowBytes === agent.creditBytes;
  await here.until(hasWindow, `seed ${from}: its window, ${said.join()}`, 100, 60_000);
  await here.clock.pass(3_000);
  machine.listen();
  expect(hasWindow()).toBe(true);
  expect(here.server.grantedBytes).toBe(agent.creditBytes);
  expect(machine.told.filter(({ known }) => !known)).toEqual([]);
  const cuts = target.points.map(({ cutTimeMs }) => cutTimeMs);
  expect(cuts).toEqual([...cuts].sort((a, b) => a - b));
  // What was merged, or sent from memory, is remembered in memory only (SPOOL.md).
  const excused = (fault: string): boolean =>
    said.includes('restart') && /lists other layers$|^layer \d+ can not go on$/.test(fault);
  expect(
    target.faults.filter((fault) => !excused(fault)),
    `seed ${from}: ${said.join()}`,
  ).toEqual([]);
  expect([...machine.errors].filter((error) => /^(?:protocol-error|internal|stale-epoch)/.test(error))).toEqual([]);
  return said;
}

it.each(Array.from({ length: stories }, (_, each) => seed + each))(
  'any story ends well (seed %i)',
  { timeout: 60_000 },
  async (from) => {
    expect(await story(from)).toHaveLength(steps);
  },
);
