/**
 * What a process server sends a target of three disks, frame by frame and from one script: interleaved layers, empty ones, several of one disk before a
 * point. It keeps every frame, as a spool does, and sends again what was not answered, or all of it.
 */
import path from 'node:path';
import { geometryOf } from '../../src/disk/geometry.ts';
import { MerkleNodes } from '../../src/disk/merkle.ts';
import { merkleHashes } from '../../src/kernels/hash.ts';
import { systemClock } from '../../src/kit/clock.ts';
import type { Files } from '../../src/posix/files.ts';
import { replayAll } from '../../src/store/replay.ts';
import { decodeCommitted } from '../../src/wire/committed.ts';
import { encodeCycle } from '../../src/wire/cycle.ts';
import { decodeDurable } from '../../src/wire/durable.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { features } from '../../src/wire/features.ts';
import { encodeFrame, frameType } from '../../src/wire/frame.ts';
import { encodePointMessage } from '../../src/wire/point.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { withRealIndex } from '../crash/real-index.ts';
import { runOf } from '../layers.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import { blockSize, diskSize, sealedBody, type OpenedDisk, type Peer, type TargetSite } from './peer.ts';

type Step =
  | { readonly kind: 'cycle'; readonly disk: number; readonly counter: number }
  | { readonly kind: 'batch'; readonly disk: number; readonly counter: number; readonly block: number }
  | { readonly kind: 'point' };

const cycle = (disk: number, counter: number): Step => ({ kind: 'cycle', disk, counter });
const batch = (disk: number, counter: number, block: number): Step => ({ kind: 'batch', disk, counter, block });
const point: Step = { kind: 'point' };

/** Layers are of the disk and counter that stand in them; 3, 7 and 10 stay empty. */
export const script: readonly Step[] = [
  ...[cycle(0, 1), batch(0, 1, 3), cycle(1, 2), batch(1, 2, 0), batch(0, 1, 9), batch(1, 2, 1), cycle(2, 3), point],
  ...[cycle(0, 4), batch(0, 4, 9), cycle(2, 5), batch(2, 5, 63), cycle(0, 6), batch(0, 6, 1), batch(0, 6, 9)],
  ...[cycle(1, 7), cycle(1, 8), batch(1, 8, 1), point],
  ...[cycle(0, 9), batch(0, 9, 3), cycle(2, 10), batch(0, 9, 4), point],
];
const disks = [0, 1, 2];
/** Blocks the script writes, and some it does not. */
const looked = [0, 1, 2, 3, 4, 9, 10, 62, 63];

interface Sent {
  readonly step: Step;
  readonly bytes: Uint8Array;
  /** Of a batch within its layer. */
  readonly number: number;
  /** Of a point. */
  readonly cutTimeMs: number;
  answered: boolean;
}

export class LayerStream {
  readonly frames: Sent[] = [];
  /** Per point, per disk: block → what fills it. */
  readonly images: ReadonlyMap<number, number>[][] = [];
  peer: Peer | null = null;

  /** Says HELLO and opens the disks; what is committed by then counts as answered. */
  async open(site: TargetSite): Promise<void> {
    const peer = site.connect();
    this.peer = peer;
    const can = await peer.greet({ features: [features.continueLayers, 'not-known-here'] });
    if (JSON.stringify(can) !== JSON.stringify([features.continueLayers])) throw new Error(JSON.stringify(can));
    const opened: OpenedDisk[] = [];
    for (const disk of disks) {
      opened.push(await peer.openDisk(null, { disk, name: `vd${disk}` }));
      await peer.next(frameType.leaves);
    }
    if (this.frames.length === 0) this.#write(opened);
    const cutTimeMs = opened[0]?.opened.committed?.cutTimeMs ?? 0;
    this.#answerUpTo((frame) => frame.cutTimeMs === cutTimeMs);
  }

  /** Sends frames from `from` up to before `end`, but for those that `skip` names. */
  send(from: number, end: number, skip: (frame: Sent) => boolean = () => false): void {
    for (const frame of this.frames.slice(from, end)) if (!skip(frame)) this.peer?.send(frame.bytes);
  }

  /** What stands behind the last point that is known to be committed. */
  get uncommitted(): number {
    return this.frames.findLastIndex(({ step, answered }) => step.kind === 'point' && answered) + 1;
  }

  /** A CYCLE goes again with its batches; one that has none left to send does not. */
  readonly isDone = (frame: Sent): boolean => {
    const { step } = frame;
    if (step.kind !== 'cycle') return frame.answered;
    const batches = this.frames.filter((each) => each.step.kind === 'batch' && each.step.counter === step.counter);
    return batches.length > 0 && batches.every(({ answered }) => answered);
  };

  /** Until all batches and points before `end` are answered. @throws what the target says instead. */
  async settled(end = this.frames.length): Promise<void> {
    const open = (): boolean =>
      this.frames.slice(0, end).some(({ step, answered }) => step.kind !== 'cycle' && !answered);
    while (open()) await this.#answer();
  }

  /** What has come by now. */
  async hear(): Promise<void> {
    while (this.peer?.frames.some(({ type }) => type === frameType.durable || type === frameType.committed))
      await this.#answer();
  }

  async #answer(): Promise<void> {
    if (!this.peer) throw new Error('a session is open');
    const { durable, committed, rejected, error } = frameType;
    const { type, body } = await this.peer.next(durable, committed, rejected, error);
    if (type === error) throw new Error(JSON.stringify(decodeErrorMessage(body)));
    if (type === rejected) throw new Error(Buffer.from(body).toString());
    if (type === committed) {
      const { cutTimeMs } = decodeCommitted(body);
      this.#answerUpTo((frame) => frame.cutTimeMs === cutTimeMs);
      return;
    }
    const { seq, batches } = decodeDurable(body);
    for (const frame of this.frames) {
      const { step, number } = frame;
      if (step.kind === 'batch' && seqOf(1, step.counter) === seq && number < batches) frame.answered = true;
    }
  }

  #answerUpTo(isIt: (frame: Sent) => boolean): void {
    const at = this.frames.findIndex((frame) => frame.step.kind === 'point' && isIt(frame));
    for (const frame of this.frames.slice(0, at + 1)) frame.answered = true;
  }

  #write(opened: readonly OpenedDisk[]): void {
    const leaves = disks.map(() => Buffer.alloc((diskSize / blockSize) * 32));
    const image = disks.map(() => new Map<number, number>());
    const batches = new Map<number, number>();
    let listed = disks.map((): number[] => []);
    for (const [at, step] of script.entries()) {
      if (step.kind === 'point') {
        const bytes = pointBytes(at, leaves, listed);
        this.frames.push({ step, bytes, number: 0, cutTimeMs: at, answered: false });
        this.images.push(image.map((each) => new Map(each)));
        listed = disks.map(() => []);
        continue;
      }
      const { disk, counter } = step;
      const seq = seqOf(1, counter);
      const number = batches.get(counter) ?? 0;
      if (step.kind === 'cycle') {
        this.frames.push({ step, bytes: cycleBytes(disk, seq), number, cutTimeMs: -1, answered: false });
        continue;
      }
      const [keys, of] = [opened[disk]?.opened, leaves[disk]];
      if (!keys || !of) throw new Error('the disk is open');
      if (number === 0) listed[disk]?.push(seq);
      const pages = Buffer.alloc(blockSize, at + 1);
      const { body, leaf } = sealedBody(keys, { seq, batch: number, block: step.block, pages });
      this.frames.push({
        step,
        bytes: encodeFrame(frameType.sealed, disk, body),
        number,
        cutTimeMs: -1,
        answered: false,
      });
      of.set(leaf, step.block * 32);
      image[disk]?.set(step.block, at + 1);
      batches.set(counter, number + 1);
    }
  }
}

export function cycleBytes(disk: number, seq: number, more: { salt?: string; keyVersion?: number } = {}): Uint8Array {
  return encodeCycle({ disk, seq, kind: 'delta', base: null, salt: '5a'.repeat(32), keyVersion: 1, ...more });
}

function pointBytes(cutTimeMs: number, leaves: readonly Buffer[], listed: readonly number[][]): Uint8Array {
  return encodePointMessage({
    cutTimeMs,
    consistency: 'crash',
    disks: disks.map((disk) => {
      const nodes = new MerkleNodes(geometryOf(diskSize, blockSize), merkleHashes);
      nodes.set(0, leaves[disk] ?? Buffer.alloc(0));
      const root = Buffer.from(nodes.root()).toString('hex');
      const layers = runOf([...(listed[disk] ?? [])].sort((a, b) => a - b));
      return { disk, size: diskSize, root, layers, kind: 'delta', records: 1, payloadBytes: 1 };
    }),
  });
}

/** How often each entry of a layer stands in the log, as far as the log counts: `layer disk/counter` and `batch disk/counter/number`. */
export async function storedEntries(site: TargetSite, files: Files): Promise<Map<string, number>> {
  const { points } = site.store();
  const machine = path.join(site.data, 'machines', 'm1');
  const facts: unknown = JSON.parse((await files.readWhole(path.join(machine, 'machine.json'))).toString());
  const { id } = facts as { id: string };
  const stored = new Map<string, number>();
  const { extents, removed } = points;
  const from = { files, directory: path.join(machine, 'segments'), machineId: Buffer.from(id, 'hex') };
  await replayAll({ ...from, extents, removed, check: 'digests' }, (entry) => {
    const { type, diskNo } = entry;
    const seq = type === 'layer' ? entry.layer.seq : type === 'batch' ? entry.header.seq : 0;
    const key = `${type} ${diskNo}/${seq % 2 ** 32}${type === 'batch' ? `/${entry.header.batch}` : ''}`;
    stored.set(key, (stored.get(key) ?? 0) + 1);
  });
  return stored;
}

/** Every batch and layer of the script, once. */
export function scriptedEntries(): Map<string, number> {
  const batches = new Map<number, number>();
  const keys = script.flatMap((step) => {
    if (step.kind === 'point') return [];
    const { kind, disk, counter } = step;
    if (kind === 'cycle') return [`layer ${disk}/${counter}`];
    const number = batches.get(counter) ?? 0;
    batches.set(counter, number + 1);
    return [`batch ${disk}/${counter}/${number}`];
  });
  return new Map(keys.sort().map((key) => [key, 1]));
}

/** Content of the disks as of each point, as in `LayerStream.images`. @throws what the store finds wrong with it. */
export async function storedImages(site: TargetSite): Promise<ReadonlyMap<number, number>[][]> {
  const store = site.store();
  const images: ReadonlyMap<number, number>[][] = [];
  const bytes = Buffer.alloc(blockSize);
  for (const { point: number } of store.points.points) {
    const image: Map<number, number>[] = [];
    for (const disk of store.disks) {
      const held = new Map<number, number>();
      const reader = store.readerAt(disk, number);
      for (const block of looked) {
        await reader.readBlock(block, bytes);
        if (!bytes.every((byte) => byte === bytes[0])) throw new Error(`block ${block} is mixed`);
        if (bytes[0] !== 0) held.set(block, bytes[0] ?? 0);
      }
      image.push(held);
    }
    images.push(image);
  }
  return images;
}

export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await systemClock.turn();
}

/** A simulated disk behind a door that can be shut, with what LMDB maps on the real one. */
export function mortal(files: SimulatedFiles): MortalFiles {
  return new MortalFiles(withRealIndex(files));
}

/** What a dead target is still about ends at its next look at a file; its index must not be closed under its hands, which no process is there for. */
export async function deadEnds(files: MortalFiles): Promise<void> {
  await files.die();
  await turns(50);
  // Nothing says when it is at rest; on a busy machine it takes as much longer as this sleep does.
  for (let calm = 0, rounds = 0; calm < 4 && rounds < 400; rounds += 1) {
    const startMs = systemClock.monotonicMs();
    await systemClock.sleep(5);
    calm = systemClock.monotonicMs() - startMs < 8 ? calm + 1 : 0;
  }
  await turns(50);
}
