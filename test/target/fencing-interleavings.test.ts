/**
 * Three process servers, leases handed out by a model, one target: takeovers, servers that stop and wake, claims with leases long lost, batches and points
 * that come late, targets that restart or are killed, in any order and with every file operation taking its time. Of whoever has not the newest epoch
 * nothing is ever written, and every point is what its owner meant. TIDEMARK_TEST_SEED plays a run again, TIDEMARK_TEST_SOAK=1 makes ten times the rounds.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { geometryOf } from '../../src/disk/geometry.ts';
import { MerkleNodes } from '../../src/disk/merkle.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { withLayer, type LayerRun } from '../../src/kernels/layer-run.ts';
import type { Files } from '../../src/posix/files.ts';
import { MachineLog } from '../../src/store/machine-log.ts';
import { PointsLog, readPoints } from '../../src/store/points-log.ts';
import type { PointBody } from '../../src/store/points-record.ts';
import { replayAll } from '../../src/store/replay.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { frameType } from '../../src/wire/frame.ts';
import { epochOf } from '../../src/wire/seq.ts';
import type { MortalFiles } from '../pipeline/mortal-files.ts';
import { diceOf, seedOfRun, type Dice } from '../product/content.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { deadEnds, mortal, turns } from './layer-stream.ts';
import { blockSize, diskSize, TargetSite, type OpenedDisk, type Peer } from './peer.ts';

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const blocks = diskSize / blockSize;
const roundsPerTarget = 50;
const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-fencing-'));
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
});

interface Row {
  readonly seq: number;
  readonly block: number;
  readonly leaf: Uint8Array;
}

/** What reaches the log, seen from its door: nothing of it is asked of the code under test. */
class Door {
  /** The newest durable epoch, and whose. */
  epoch = 0;
  stale: string[] = [];
  points = 0;
  /** The highest seq that points list. */
  listed = 0;
  /** All batches that came through, and the records of those that are durable. */
  readonly batches = new Map<string, readonly Row[]>();
  readonly durable = new Set<string>();
  readonly records: Row[] = [];

  wrote(what: string, epoch: number): void {
    if (epoch !== this.epoch) this.stale.push(`${what} of epoch ${epoch} under epoch ${this.epoch}`);
  }

  isDurable(batch: string): void {
    if (this.durable.has(batch)) return;
    this.durable.add(batch);
    this.records.push(...(this.batches.get(batch) ?? []));
  }

  /** The point is what the records up to its last layer make. */
  isPoint({ epoch, disks: [disk] }: PointBody): void {
    this.points += 1;
    expect(disk?.root).toBe(rootOf(this.leaves(disk?.layers?.last ?? this.listed)));
    this.listed = disk?.layers?.last ?? this.listed;
    this.wrote('point', epoch);
  }

  leaves(upTo = Infinity): Map<number, Uint8Array> {
    const leaves = new Map<number, Uint8Array>();
    for (const { seq, block, leaf } of this.records.toSorted((a, b) => a.seq - b.seq))
      if (seq <= upTo) leaves.set(block, leaf);
    return leaves;
  }
}

let door = new Door();
beforeEach(() => {
  const appendLayer = Reflect.get(MachineLog.prototype, 'appendLayer');
  const appendBatch = Reflect.get(MachineLog.prototype, 'appendBatch');
  vi.spyOn(MachineLog.prototype, 'appendLayer').mockImplementation(function (this: MachineLog, no, layer) {
    const appended = appendLayer.call(this, no, layer);
    door.wrote(`layer ${layer.seq}`, epochOf(layer.seq));
    return appended;
  });
  vi.spyOn(MachineLog.prototype, 'appendBatch').mockImplementation(async function (this: MachineLog, no, batch, body) {
    const appended = appendBatch.call(this, no, batch, body);
    const rows = batch.rows.map(({ block, leaf }) => ({ seq: batch.seq, block, leaf: Uint8Array.from(leaf) }));
    const name = `${batch.seq}/${batch.batch}`;
    door.wrote(`batch ${name}`, epochOf(batch.seq));
    door.batches.set(name, rows);
    await appended;
    door.isDurable(name);
  });
  const append = Reflect.get(PointsLog.prototype, 'append');
  vi.spyOn(PointsLog.prototype, 'append').mockImplementation(async function (this: PointsLog, entry) {
    await append.call(this, entry);
    if (entry.type === 'epoch') {
      expect(entry.body.epoch).toBeGreaterThan(door.epoch);
      door.epoch = entry.body.epoch;
    }
    if (entry.type === 'point') door.isPoint(entry.body);
  });
});
afterEach(() => {
  vi.restoreAllMocks();
});

function rootOf(leaves: ReadonlyMap<number, Uint8Array>): string {
  const bytes = Buffer.alloc(blocks * 32);
  for (const [block, leaf] of leaves) bytes.set(leaf, block * 32);
  const nodes = new MerkleNodes(geometryOf(diskSize, blockSize), merkleHashes);
  nodes.set(0, bytes);
  return Buffer.from(nodes.root()).toString('hex');
}

/** What a session knows of its disk. */
interface Writing {
  readonly disk: OpenedDisk;
  readonly leaves: Map<number, Uint8Array>;
  run: LayerRun | null;
}

class Server {
  readonly name: string;
  readonly instance: string;
  /** The lease it believes it has. */
  lease = 0;
  peer: Peer | null = null;
  writing: Writing | null = null;
  readonly peers: Peer[] = [];

  constructor(at: number) {
    this.name = `ps-${at}`;
    this.instance = `a${at}`.repeat(16);
  }
}

class World {
  readonly counts = { takeovers: 0, refused: 0, superseded: 0, points: 0, restarts: 0, late: 0 };
  readonly #dice: Dice;
  readonly #servers = [1, 2, 3].map((at) => new Server(at));
  readonly #under = new Set<Promise<void>>();
  #running: { readonly site: TargetSite; readonly door: MortalFiles } | null = null;
  #files: SimulatedFiles;
  #leases = 0;
  #cutTimeMs = 0;

  private constructor(files: SimulatedFiles, dice: Dice) {
    this.#files = files;
    this.#dice = dice;
  }

  static async begin(directory: string, dice: Dice): Promise<World> {
    const files = new SimulatedFiles([directory]);
    files.turnsMax = 2;
    files.slow = () => dice.between(0, 6);
    const world = new World(files, dice);
    await world.#start((options) => TargetSite.start({ ...options, directory }));
    return world;
  }

  /** One interleaving: some steps of anyone, then everything that is held up comes through. */
  async round(): Promise<void> {
    // Someone has the machine, as a rule.
    this.#step(this.#dice.pick(this.#servers), this.#dice.between(0, 20));
    await turns(this.#dice.pick([0, 5, 40, 80]));
    for (let step = this.#dice.between(6, 18); step > 0; step -= 1) {
      const server = this.#dice.pick(this.#servers);
      this.#step(server, this.#dice.between(0, 100));
      await turns(this.#dice.pick([0, 0, 1, 3, 10, 25]));
    }
    if (this.#dice.between(0, 100) < 3) await this.#restart();
    await this.#quiet();
    expect(door.stale).toEqual([]);
  }

  #step(server: Server, lot: number): void {
    const { peer, writing } = server;
    if (lot < 12) {
      // Control gives the machine to this one.
      this.#leases += 1;
      server.lease = this.#leases;
      this.counts.takeovers += 1;
      this.#claim(server);
    } else if (lot < 20) {
      // Its connection was lost, or it woke up: it still believes in what it had.
      if (lot < 16) peer?.connection.cut();
      this.#claim(server);
    } else if (lot < 30) peer?.connection.hold();
    else if (lot < 42) this.#wake(server);
    else if (peer && writing && lot < 80) this.#work(peer, writing);
    else if (peer && writing) this.#point(peer, writing);
  }

  #wake({ peer, writing }: Server): void {
    if (writing && writing.disk.opened.epoch < door.epoch) this.counts.late += 1;
    peer?.connection.release();
  }

  #claim(server: Server): void {
    const peer = this.#site.connect(server.name);
    server.peer = peer;
    server.peers.push(peer);
    server.writing = null;
    const asked = this.#open(server, peer, server.lease).catch((error: unknown) => {
      // It was closed before it was answered.
      if (!(error instanceof Error) || !error.message.startsWith('closed: ')) throw error;
    });
    this.#under.add(asked);
    void asked.finally(() => this.#under.delete(asked)).catch(() => undefined);
  }

  async #open(server: Server, peer: Peer, lease: number): Promise<void> {
    const { instance } = server;
    const answer = await peer.greet({ instance, ...(lease > 0 ? { lease: { epoch: lease } } : {}) });
    if ('code' in answer) {
      expect(['stale-epoch', 'superseded', 'shutting-down']).toContain(answer.code);
      if (answer.code !== 'stale-epoch') return;
      // With the evidence: someone has had the machine under this epoch, who is not the one that asks.
      expect(answer.epoch).toBeGreaterThanOrEqual(lease);
      this.counts.refused += 1;
      return;
    }
    const disk = await peer.openDisk();
    if (server.peer !== peer || disk.opened.epoch !== door.epoch) return;
    server.writing = { disk, leaves: door.leaves(), run: disk.opened.layers };
  }

  #work(peer: Peer, writing: Writing): void {
    const seq = peer.cycle(writing.disk);
    const from = this.#dice.between(0, blocks - 4);
    for (let batch = 0; batch < this.#dice.between(1, 4); batch += 1) {
      const leaf = peer.sealed(writing.disk, seq, from + batch, batch, this.#dice.between(1, 256));
      writing.leaves.set(from + batch, leaf);
    }
    writing.run = withLayer(writing.run, seq);
  }

  #point(peer: Peer, writing: Writing): void {
    this.#cutTimeMs += 1;
    peer.point(rootOf(writing.leaves), writing.run, { cutTimeMs: this.#cutTimeMs });
    writing.run = null;
  }

  get #site(): TargetSite {
    if (!this.#running) throw new Error('the target runs');
    return this.#running.site;
  }

  async #start(how: (options: { files: Files }) => Promise<TargetSite>): Promise<void> {
    const door = mortal(this.#files);
    this.#running = { site: await how({ files: door }), door };
  }

  /** In order, or as SIGKILL does it. */
  async #restart(): Promise<void> {
    this.counts.restarts += 1;
    const { site, door: dying } = this.#running ?? {};
    if (!site || !dying) return;
    if (this.#dice.between(0, 2) === 0) {
      await this.#start((options) => site.restarted(options));
      return;
    }
    // What it is about when it dies reaches nothing that counts.
    const { turnsMax, slow, dice } = this.#files;
    this.#files = Object.assign(this.#files.copy(), { turnsMax, slow, dice });
    await this.#start((options) => site.killed({ die: () => deadEnds(dying) }, options));
    await this.#recount();
  }

  /** What was durable though nobody heard of it any more. */
  async #recount(): Promise<void> {
    const [files, machine] = [this.#files, path.join(this.#site.data, 'machines', 'm1')];
    // Nobody came before the first restart: there is nothing to find.
    if (!(await files.exists(path.join(machine, 'machine.json')))) return;
    const facts: unknown = JSON.parse((await files.readWhole(path.join(machine, 'machine.json'))).toString());
    const machineId = Buffer.from((facts as { id: string }).id, 'hex');
    const { view } = await readPoints({ files, path: path.join(machine, 'points.log'), machineId });
    const { extents, removed } = view;
    const log = { files, directory: path.join(machine, 'segments'), machineId, extents, removed };
    const found = new Set<string>();
    await replayAll({ ...log, check: 'headers' }, (entry) => {
      if (entry.type === 'batch') found.add(`${entry.header.seq}/${entry.header.batch}`);
    });
    expect([...door.durable].filter((batch) => !found.has(batch))).toEqual([]);
    for (const batch of found) {
      expect(door.batches.has(batch)).toBe(true);
      door.isDurable(batch);
    }
    expect(view.epoch?.epoch ?? 0).toBeGreaterThanOrEqual(door.epoch);
    door.epoch = view.epoch?.epoch ?? 0;
    for (const point of view.points.slice(door.points)) door.isPoint(point);
  }

  async #quiet(): Promise<void> {
    for (const { peers } of this.#servers) for (const each of peers) each.connection.release();
    await Promise.all(this.#under);
    for (const server of this.#servers) {
      for (const peer of server.peers.splice(0)) await this.#endOf(server, peer);
      server.peer = null;
      server.writing = null;
    }
  }

  /** Everything it sent has come, and it has heard of all. */
  async #endOf(server: Server, peer: Peer): Promise<void> {
    if (peer === server.peer && server.writing) {
      // Answered in its turn.
      await peer.checksums(server.writing.disk, { level: 'leaves', first: 0, count: 1 }).catch(() => undefined);
      await this.#site.target.stores().get('m1')?.settle();
      await turns(5);
    }
    for (const { type, body } of peer.frames.splice(0)) {
      if (type === frameType.committed) this.counts.points += 1;
      if (type === frameType.rejected) throw new Error(Buffer.from(body).toString());
      if (type !== frameType.error) continue;
      const { code, message } = decodeErrorMessage(body);
      expect(['stale-epoch', 'superseded', 'shutting-down'], message).toContain(code);
      if (code === 'superseded') this.counts.superseded += 1;
    }
    peer.connection.cut();
  }

  /** Everything is read back from what is stored. */
  async end(): Promise<void> {
    // One more point, so that the target proves what a restart left unproven.
    const peer = this.#site.connect('ps-1');
    await peer.greet({ instance: 'a1'.repeat(16), lease: { epoch: this.#leases + 1 } });
    const { opened } = await peer.openDisk();
    peer.point(rootOf(door.leaves()), opened.layers);
    await peer.next(frameType.committed);
    const { points } = this.#site.store();
    const epochs = points.points.map(({ epoch }) => epoch);
    expect(epochs).toEqual(epochs.toSorted((a, b) => a - b));
    await vi.waitFor(() => {
      expect(points.kept.filter(({ point }) => points.stateOf(point) !== 'proven')).toEqual([]);
    }, 20_000);
    await this.#site.remove();
  }
}

test(
  'whatever the order of takeovers, pauses, late batches, points and restarts: nothing stale is written',
  { timeout: soak ? 3_600_000 : 300_000 },
  async () => {
    const seed = seedOfRun('fencing');
    const dice = diceOf(seed);
    const total = { takeovers: 0, refused: 0, superseded: 0, points: 0, restarts: 0, late: 0 };
    for (let target = 0; target < (soak ? 200 : 20); target += 1) {
      door = new Door();
      const world = await World.begin(path.join(scratch, String(target)), dice);
      for (let round = 0; round < roundsPerTarget; round += 1) await world.round();
      await world.end();
      for (const [what, count] of Object.entries(world.counts)) total[what as keyof typeof total] += count;
    }
    process.stderr.write(`fencing: ${JSON.stringify(total)}\n`);
    for (const count of Object.values(total)) expect(count).toBeGreaterThan(10);
  },
);
