/** A machine's store on real files, opened again and again, with layers sealed for real, committed and proven. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { flipBit } from '../../scripts/demo/damage.ts';
import { gatherPages } from '../../src/disk/page-mask.ts';
import { digest, leafOf } from '../../src/kernels/hash.ts';
import { deriveLayerKey } from '../../src/kernels/keys.ts';
import { sealRecord } from '../../src/kernels/seal.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import type { DiskStore } from '../../src/store/disk-store.ts';
import { openDataDirectory, type DataDirectory } from '../../src/store/machine-directory.ts';
import { openMachineStore, type OpeningReport } from '../../src/store/machine-open.ts';
import type { FoldOutcome, SpaceUse } from '../../src/store/machine-fold.ts';
import type { MachineStore } from '../../src/store/machine-store.ts';
import type { RetentionPolicy } from '../../src/store/retention.ts';
import { segmentName } from '../../src/store/segment-format.ts';
import { Vault } from '../../src/store/vault.ts';
import { newTargetCounters } from '../../src/target/counters.ts';
import { Prover } from '../../src/target/prover.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedHeader, writeSealedRow } from '../../src/wire/sealed.ts';
import { seqOf } from '../../src/wire/seq.ts';
import type { LayerRun } from '../../src/kernels/layer-run.ts';
import { runOf } from '../layers.ts';

/** What most tests do with: 2,048 blocks in two nodes. */
const smallDisk = { size: 2048 * 4096, blockSize: 4096 };
const machine = 'm1';

/** Of points as old as this none is kept for its age; newest, pinned and unsettled ones stay. */
export const retireAll: RetentionPolicy = { hours: -1 };

export interface BlockChange {
  readonly block: number;
  readonly mask?: number;
  /** All of it. */
  readonly zero?: boolean;
  /** Sent with the content it has, as a source does that is asked for it. */
  readonly same?: boolean;
}

export class MachineLife {
  store: MachineStore;
  report: OpeningReport;
  readonly directory: string;
  readonly #data: DataDirectory;
  readonly #shape: { readonly size: number; readonly blockSize: number };
  /** What the disk holds now. */
  readonly image: Map<number, Buffer>;

  private constructor(
    directory: string,
    data: DataDirectory,
    opened: Opened,
    image: Map<number, Buffer>,
    shape = smallDisk,
  ) {
    this.directory = directory;
    this.#data = data;
    this.store = opened.store;
    this.report = opened.report;
    this.image = image;
    this.#shape = shape;
  }

  static async begin(files: Files = posixFiles, shape = smallDisk): Promise<MachineLife> {
    return MachineLife.open(await mkdtemp(path.join(tmpdir(), 'tidemark-life-')), files, new Map(), 'boot', shape);
  }

  /** On what is there. `image`: what the disk holds. */
  static async open(
    directory: string,
    files: Files,
    image: Map<number, Buffer>,
    bootId = 'boot',
    shape = smallDisk,
  ): Promise<MachineLife> {
    const clock = systemClock;
    const identity = { pid: process.pid, role: 'test', since: '' };
    const data = await openDataDirectory({ files, clock, path: path.join(directory, 'data'), identity });
    try {
      const opened = await openWithin(data, directory, files, bootId);
      return new MachineLife(directory, data, opened, image, shape);
    } catch (error) {
      await data.close();
      throw error;
    }
  }

  /** The same store in the next run: it writes to a new segment. */
  async again(files: Files = posixFiles): Promise<MachineLife> {
    await this.close();
    return MachineLife.open(this.directory, files, this.image, 'boot', this.#shape);
  }

  async close(): Promise<void> {
    await this.store.close();
    await this.#data.close();
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.directory, { recursive: true, force: true });
  }

  path(...parts: string[]): string {
    return path.join(this.directory, 'data', 'machines', machine, ...parts);
  }

  /** Its file. */
  segment(number: number): string {
    return this.path('segments', segmentName(number));
  }

  /** Bit rot: one bit of a segment, in place. */
  flip(segment: number, at: number): Promise<void> {
    return flipBit(this.segment(segment), at, 2);
  }

  disk(): Promise<DiskStore> {
    return this.store.openDisk({ name: 'vda', ...this.#shape });
  }

  /** Writes the blocks anew, as one layer of one batch, and commits them. Not proven. */
  async point(changes: readonly BlockChange[], definition?: MachineDefinition): Promise<number> {
    const seq = await this.layer(changes);
    return this.commit(runOf([seq]), changes.length, definition);
  }

  /** Writes the blocks anew, as one layer of one batch; durable when it resolves. */
  async layer(changes: readonly BlockChange[]): Promise<number> {
    const epoch = await this.store.acquireEpoch('aa');
    const disk = await this.disk();
    const seq = seqOf(epoch, this.store.nextCounter(epoch));
    const salt = systemRandom.bytes(32);
    await disk.beginLayer({ seq, kind: 'delta', base: null, salt, keyVersion: disk.keys.version, epoch });
    await disk.appendBatch(this.batch(disk, salt, seq, changes)).durable;
    return seq;
  }

  async commit(layers: LayerRun | null, records: number, definition?: MachineDefinition): Promise<number> {
    const epoch = await this.store.acquireEpoch('aa');
    const disk = await this.disk();
    const root = Buffer.from(disk.leaves.workingRoot()).toString('hex');
    const { size } = this.#shape;
    const part = { store: disk, size, root, layers, kind: 'delta', records, payloadBytes: 0 } as const;
    const outcome = await this.store.commit({ cutTimeMs: 1, consistency: 'crash', epoch, disks: [part], definition });
    if (outcome.kind !== 'committed') throw new Error(outcome.detail);
    return outcome.point;
  }

  /** Proves what is committed, once; answers the blocks the source is asked for. */
  async prove(clock: Clock = systemClock): Promise<{ asked: number[]; prover: Prover }> {
    const asked: number[] = [];
    const prover = new Prover({
      store: this.store,
      clock,
      logger: createLogger({ level: 'silent', clock: systemClock }),
      counters: newTargetCounters(),
      damaged: (_, blocks) => asked.push(...blocks),
    });
    prover.wake();
    await prover.idle();
    return { asked, prover };
  }

  /** Keeps its point from being retired, or no longer. */
  pin(point: number, pinned: boolean): Promise<void> {
    return this.store.recordAside({ type: 'pin', body: { point, pinned, atMs: 1 } });
  }

  /** One pass: retires all that may be, at full speed, and unlinks at once. */
  async fold(policy: RetentionPolicy = retireAll): Promise<{ outcome: FoldOutcome; use: SpaceUse }> {
    const fold = this.store.fold();
    const outcome = await fold.run(policy, { step: () => Promise.resolve(true) });
    await fold.unlinkDue(true);
    if (!fold.use) throw new Error('a pass says what is used');
    return { outcome, use: fold.use };
  }

  states(): string[] {
    return this.store.points.points.map(({ point }) => this.store.points.stateOf(point));
  }

  /** The body of a SEALED frame: one batch of a layer that has none. */
  batch(disk: DiskStore, salt: Uint8Array, seq: number, changes: readonly BlockChange[]): Uint8Array {
    const { blockSize } = this.#shape;
    const pageSize = blockSize / 16;
    const diskId = Buffer.from(disk.id, 'hex');
    const layerKey = deriveLayerKey(disk.keys.diskKey, salt, diskId, seq);
    const rowsEnd = sealedHeaderBytes + changes.length * sealedRowBytes;
    const room = new Uint8Array(rowsEnd + changes.length * (blockSize + 64));
    let at = rowsEnd;
    for (const [number, { block, mask = 0xffff, zero = false, same = false }] of changes.entries()) {
      const pageMask = zero ? 0xffff : mask;
      const content = Buffer.from(zero ? Buffer.alloc(blockSize) : (this.image.get(block) ?? Buffer.alloc(blockSize)));
      for (let page = 0; page < 16 && !zero && !same; page += 1)
        if ((pageMask & (1 << page)) !== 0) systemRandom.bytes(pageSize).copy(content, page * pageSize);
      this.image.set(block, content);
      const pages = Buffer.alloc(blockSize);
      const pagesLength = zero ? 0 : gatherPages(content, pageMask, pageSize, pages, 0);
      const record = { diskId, seq, block, pageMask, nonce: number, leaf: leafOf(disk.keys.leafKey, content) };
      const gathered = pages.subarray(0, pagesLength);
      const sealed = sealRecord({ ...record, layerKey, pages: gathered, compression: 'lz4' }, room, at);
      writeSealedRow(room, sealedHeaderBytes + number * sealedRowBytes, { ...record, ...sealed });
      at += sealed.storedLength;
    }
    const body = room.subarray(0, at);
    const plainBytes = changes.length * blockSize;
    const header = {
      seq,
      batch: 0,
      count: changes.length,
      plainBytes,
      digest: digest(body.subarray(sealedHeaderBytes)),
    };
    writeSealedHeader(body, 0, header);
    return body;
  }
}

async function openWithin(data: DataDirectory, directory: string, files: Files, bootId: string): Promise<Opened> {
  const [clock, random] = [systemClock, systemRandom];
  const keyFile = path.join(directory, 'vault.key');
  const vault = await Vault.openOrCreate({ files, random, keyFile, expected: data.facts?.vault });
  if (!data.facts) await data.create(vault.id);
  const fatal = (problem: Error): never => {
    throw problem;
  };
  return openMachineStore({ files, clock, random, vault, data, machine, bootId, fatal });
}

type Opened = Awaited<ReturnType<typeof openMachineStore>>;
