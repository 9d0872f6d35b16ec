/** A target on a directory of its own, and process servers that speak to it frame by frame. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { geometryOf } from '../../src/disk/geometry.ts';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { invariant } from '../../src/kit/invariant.ts';
import { systemRandom } from '../../src/kit/random.ts';
import type { Logger } from '../../src/observe/logger.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { openDataDirectory, type DataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore } from '../../src/store/machine-open.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import { Vault } from '../../src/store/vault.ts';
import { boundsOf } from '../../src/target/comparison.ts';
import { Target, type TargetOptions } from '../../src/target/target.ts';
import { decodeChecksums, encodeAsk, type ChecksumRange } from '../../src/wire/checksums.ts';
import { encodeCycle } from '../../src/wire/cycle.ts';
import { decodeFrame, encodeFrame, frameType, type Frame } from '../../src/wire/frame.ts';
import { encodeGap, type Gap } from '../../src/wire/gap.ts';
import { decodeErrorMessage, type ErrorMessage } from '../../src/wire/error.ts';
import { encodeHello, protocolVersion, type Hello } from '../../src/wire/hello.ts';
import { encodeOpenDisk, type OpenDisk } from '../../src/wire/open-disk.ts';
import { decodeOpened, type Opened } from '../../src/wire/opened.ts';
import { encodePointMessage, type PointMessage } from '../../src/wire/point.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { decodeWelcome } from '../../src/wire/welcome.ts';
import { loseIndex } from '../store/open-indexes.ts';
import { memoryPair, testPeer, type MemoryConnection } from '../transport/memory-connection.ts';
import type { LayerRun } from '../../src/kernels/layer-run.ts';
import { runOf } from '../layers.ts';

export const blockSize = 4096;
export const diskSize = 64 * blockSize;
const [clock, random] = [systemClock, systemRandom];

export function silent(note: (message: string) => void = () => undefined): Logger {
  const line = (_: object, message: string): void => {
    note(message);
  };
  const logger: Logger = { debug: line, info: line, warn: line, error: line, child: () => logger };
  return logger;
}

export class TargetSite {
  readonly target: Target;
  readonly logged: string[];
  readonly #directory: string;
  readonly #data: DataDirectory;

  private constructor(directory: string, data: DataDirectory, target: Target, logged: string[]) {
    this.#directory = directory;
    this.#data = data;
    this.target = target;
    this.logged = logged;
  }

  /** `opening` is awaited before a machine's store is opened. */
  static async start(
    options: {
      files?: Files;
      opening?: () => Promise<unknown>;
      directory?: string;
      /** Of what stands beside the stores. Default: the system's. */
      clock?: Clock;
      startedElsewhere?: TargetOptions['startedElsewhere'];
    } = {},
  ): Promise<TargetSite> {
    const files = options.files ?? posixFiles;
    const directory = options.directory ?? (await mkdtemp(path.join(tmpdir(), 'tidemark-target-')));
    const identity = { pid: process.pid, role: 'test', since: '' };
    const data = await openDataDirectory({ files, clock, path: path.join(directory, 'data'), identity });
    const vault = await Vault.openOrCreate({
      files,
      random,
      keyFile: path.join(directory, 'vault.key'),
      expected: data.facts?.vault,
    });
    if (!data.facts) await data.create(vault.id);
    const logged: string[] = [];
    const fatal = (problem: Error): never => {
      throw problem;
    };
    const target = new Target({
      version: 'test',
      clock: options.clock ?? clock,
      logger: silent((message) => void logged.push(message)),
      openMachine: async (machine) => {
        await options.opening?.();
        return (await openMachineStore({ files, clock, random, vault, data, machine, bootId: 'boot', fatal })).store;
      },
      machines: () => Promise.resolve([]),
      ...(options.startedElsewhere && { startedElsewhere: options.startedElsewhere }),
    });
    return new TargetSite(directory, data, target, logged);
  }

  /** The target's directory. */
  get data(): string {
    return this.#data.path;
  }

  store(machine = 'm1'): MachineStore {
    const store = this.target.stores().get(machine);
    invariant(store, 'the store is open');
    return store;
  }

  /** A process server that has not said anything. */
  connect(name = 'ps-1'): Peer {
    const { client, server } = memoryPair(testPeer('process-server', name), testPeer('target', 't-1'));
    const peer = new Peer(client, server);
    this.target.accept(server);
    return peer;
  }

  /** One that said HELLO for the machine and opened its only disk. */
  async session(
    machine = 'm1',
    knownPoint: number | null = null,
    more: Partial<OpenDisk> = {},
  ): Promise<{ peer: Peer; disk: OpenedDisk }> {
    const peer = this.connect();
    peer.hello(machine);
    await peer.next(frameType.welcome);
    return { peer, disk: await peer.openDisk(knownPoint, more) };
  }

  /** Another run of the target on what this one left. */
  async restarted(options: Parameters<typeof TargetSite.start>[0] = {}): Promise<TargetSite> {
    await this.stop();
    return TargetSite.start({ ...options, directory: this.#directory });
  }

  /** Another run of the target on what a killed one left, whose `files` these were. */
  async killed(
    dying: { die(): Promise<unknown> },
    options: Parameters<typeof TargetSite.start>[0] = {},
    between: () => Promise<void> = () => Promise.resolve(),
  ): Promise<TargetSite> {
    const gone = dying.die();
    void this.target.close();
    await gone;
    for (const machine of this.target.stores().keys())
      await loseIndex(path.join(this.data, 'machines', machine, 'index'));
    await this.#data.close();
    await between();
    return TargetSite.start({ ...options, directory: this.#directory });
  }

  /** What it left stays. */
  async stop(): Promise<void> {
    await this.target.close();
    await this.#data.close();
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

export interface OpenedDisk {
  readonly opened: Opened;
  readonly size: number;
  /** Of the next layer. */
  counter: number;
}

export class Peer {
  readonly connection: MemoryConnection;
  /** The target's end. */
  readonly far: MemoryConnection;
  readonly frames: Frame[] = [];
  #wake: () => void = () => undefined;

  constructor(connection: MemoryConnection, far: MemoryConnection) {
    this.connection = connection;
    this.far = far;
    connection.onFrame((message) => {
      this.frames.push(decodeFrame(message));
      this.#wake();
    });
  }

  send(frame: Uint8Array): void {
    this.connection.send(frame).catch(() => undefined);
  }

  hello(machine: string, more: Partial<Hello> = {}): void {
    const instance = 'aa'.repeat(16);
    const usual = { protocol: [protocolVersion], version: 'test', features: [], instance, machine };
    this.send(encodeHello({ ...usual, role: 'process-server', ...more }));
  }

  /** HELLO and what it is answered: the features of the session, or the error. */
  async greet(more: Partial<Hello> = {}): Promise<readonly string[] | ErrorMessage> {
    this.hello('m1', more);
    const { type, body } = await this.next(frameType.welcome, frameType.error);
    return type === frameType.welcome ? decodeWelcome(body).features : decodeErrorMessage(body);
  }

  /** Takes the oldest frame of one of the types. */
  async next(...types: number[]): Promise<Frame> {
    for (;;) {
      const at = this.frames.findIndex((frame) => types.includes(frame.type));
      const [frame] = at < 0 ? [] : this.frames.splice(at, 1);
      if (frame) return frame;
      const { promise, resolve } = Promise.withResolvers<undefined>();
      this.#wake = () => {
        resolve(undefined);
      };
      const ended = await Promise.race([promise, this.connection.closed]);
      if (ended && !this.frames.some((each) => types.includes(each.type))) throw new Error(`closed: ${ended.reason}`);
    }
  }

  async openDisk(knownPoint: number | null = null, more: Partial<OpenDisk> = {}): Promise<OpenedDisk> {
    const wanted = {
      disk: 0,
      name: 'vda',
      size: diskSize,
      blockSize,
      compression: 'lz4',
      knownPoint,
      ...more,
    } as const;
    this.send(encodeOpenDisk(wanted));
    const opened = decodeOpened((await this.next(frameType.opened)).body);
    return { opened, size: wanted.size, counter: opened.nextCounter };
  }

  /** The answer to an ASK. */
  async checksums(disk: OpenedDisk, range: ChecksumRange): Promise<Uint8Array> {
    this.send(encodeAsk(0, range));
    const { body } = await this.next(frameType.checksums);
    const { hashes, ...answered } = decodeChecksums(body, boundsOf(geometryOf(disk.size, blockSize)));
    invariant(JSON.stringify(answered) === JSON.stringify(range), 'what was asked is answered');
    return hashes;
  }

  /** The leaves of the whole disk, asked for in ranges of `step`. */
  async allLeaves(disk: OpenedDisk, step = 1000): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    const blocks = disk.size / blockSize;
    for (let first = 0; first < blocks; first += step)
      parts.push(await this.checksums(disk, { level: 'leaves', first, count: Math.min(step, blocks - first) }));
    return Buffer.concat(parts);
  }

  gap(gap: Gap): void {
    this.send(encodeGap(gap));
  }

  /** CYCLE of the next layer; returns its seq. */
  cycle(disk: OpenedDisk): number {
    const seq = seqOf(disk.opened.epoch, disk.counter);
    disk.counter += 1;
    this.send(
      encodeCycle({
        disk: 0,
        seq,
        kind: 'delta',
        base: null,
        salt: '5a'.repeat(32),
        keyVersion: disk.opened.keyVersion,
      }),
    );
    return seq;
  }

  /** One batch of one whole block, all bytes `fill`; returns its leaf. */
  sealed(disk: OpenedDisk, seq: number, block: number, batch = 0, fill = block + 1): Uint8Array {
    const { body, leaf } = sealedBody(disk.opened, { seq, batch, block, pages: Buffer.alloc(blockSize, fill) });
    this.send(encodeFrame(frameType.sealed, 0, body));
    return leaf;
  }

  /** One batch of one whole block with these pages; returns the body. */
  sealedPages(disk: OpenedDisk, record: { seq: number; batch: number; block: number; pages: Buffer }): Uint8Array {
    const { body } = sealedBody(disk.opened, record);
    this.send(encodeFrame(frameType.sealed, 0, body));
    return body;
  }

  /** Of these layers, ascending. */
  point(
    root: string,
    layers: Iterable<number> | LayerRun | null,
    more: { size?: number } & Partial<PointMessage> = {},
  ): void {
    const { size = diskSize, ...rest } = more;
    const run = layers !== null && Symbol.iterator in layers ? runOf(layers) : layers;
    const disk = { disk: 0, size, root, layers: run, kind: 'delta', records: 1, payloadBytes: 1 } as const;
    this.send(encodePointMessage({ cutTimeMs: 1, consistency: 'crash', disks: [disk], ...rest }));
  }
}

/** One whole block, sealed for real, as the body of a SEALED frame. */
export function sealedBody(
  keys: Pick<Opened, 'diskId' | 'diskKey' | 'leafKey'>,
  { seq, batch, block, pages }: { seq: number; batch: number; block: number; pages: Buffer },
): { body: Uint8Array; leaf: Uint8Array } {
  const diskId = Buffer.from(keys.diskId, 'hex');
  const leaf = leafOf(Buffer.from(keys.leafKey, 'hex'), pages);
  const room = new Uint8Array(sealedHeaderBytes + sealedRowBytes + pages.byteLength + 64);
  const at = sealedHeaderBytes + sealedRowBytes;
  const record = { diskId, seq, block, pageMask: 0xffff, nonce: batch, leaf };
  const layerKey = deriveLayerKey(Buffer.from(keys.diskKey ?? '', 'hex'), Buffer.alloc(32, 0x5a), diskId, seq);
  const sealed = sealRecord({ ...record, layerKey, pages, compression: 'lz4' }, room, at);
  const body = room.subarray(0, at + sealed.storedLength);
  writeSealedRow(body, sealedHeaderBytes, { ...record, ...sealed });
  const header = {
    seq,
    batch,
    count: 1,
    plainBytes: pages.byteLength,
    digest: digest(body.subarray(sealedHeaderBytes)),
  };
  writeSealedHeader(body, 0, header);
  return { body, leaf };
}
