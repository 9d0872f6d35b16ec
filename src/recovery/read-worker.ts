/**
 * Entry of a worker thread that reads points: one task is some blocks of a disk at a point (`store/rebuild-run.ts`), which go back as one
 * buffer by transfer. Files are opened before and kept; reads do not leave the thread. Tasks are done one after another, though the next one may lie
 * here already: each keeps its files open until it is done.
 */
import * as path from 'node:path';
import { move, transferableSymbol, valueSymbol } from 'piscina';
import { systemClock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { limits } from '../limits.ts';
import { posixFiles, type File } from '../posix/files.ts';
import { BlockRebuilder } from '../store/rebuild.ts';
import { rebuildRun, segmentsOf, type RebuildFailure, type RebuildTask } from '../store/rebuild-run.ts';
import { segmentName } from '../store/segment-format.ts';

export interface RebuiltRun {
  /** Blocks × blockSize bytes. */
  readonly bytes: ArrayBuffer;
  readonly failures: readonly RebuildFailure[];
}

/** By path, least recently used first. */
const files = new Map<string, File>();

/** What is kept of an image. Layers come with each task, as many as it needs. */
class Image {
  readonly #rebuilder: BlockRebuilder;
  #layers: RebuildTask['layers'] = new Map();

  constructor(disk: RebuildTask['disk']) {
    this.#rebuilder = new BlockRebuilder(disk, (seq) => this.#layers.get(seq));
  }

  forTask(task: RebuildTask): BlockRebuilder {
    this.#layers = task.layers;
    return this.#rebuilder;
  }
}

/** By number, least recently used first. */
const images = new Map<number, Image>();

function trim<Key, Value>(map: Map<Key, Value>, max: number): Value | undefined {
  const oldest = map.entries().next();
  if (map.size <= max || oldest.done === true) return undefined;
  map.delete(oldest.value[0]);
  return oldest.value[1];
}

function rebuilderOf(task: RebuildTask): BlockRebuilder {
  const image = images.get(task.image) ?? new Image(task.disk);
  images.delete(task.image);
  images.set(task.image, image);
  trim(images, limits.recovery.imagesKeptMax);
  return image.forTask(task);
}

/** Every file the task needs, or why it can not be opened. */
async function openAll(task: RebuildTask): Promise<Map<number, File | { readonly error: unknown }>> {
  const opened = new Map<number, File | { readonly error: unknown }>();
  for (const segment of segmentsOf(task)) {
    const name = path.join(task.segments, segmentName(segment));
    try {
      const file = files.get(name) ?? (await posixFiles.open(name, 'read'));
      files.delete(name);
      files.set(name, file);
      opened.set(segment, file);
    } catch (error) {
      opened.set(segment, { error });
    }
  }
  return opened;
}

async function closeSome(): Promise<void> {
  for (let oldest = trim(files, limits.recovery.segmentsOpenMax); oldest;) {
    await oldest.close();
    oldest = trim(files, limits.recovery.segmentsOpenMax);
  }
}

const inOrder = new Serial();

export default function read(task: RebuildTask): Promise<unknown> {
  return inOrder.run(() => readNow(task));
}

async function readNow(task: RebuildTask): Promise<unknown> {
  // Memory that native calls let go of is freed when the event loop turns.
  await systemClock.turn();
  const opened = await openAll(task);
  const bytes = task.into ?? new ArrayBuffer(task.blocks * task.disk.blockSize);
  const readAt = (segment: number, into: Uint8Array, offset: number): void => {
    const file = opened.get(segment);
    if (!file) throw new Problem('damaged', `${segmentName(segment)} is not among the files of the task`);
    if ('error' in file) throw file.error;
    const got = file.readSync(into, offset);
    if (got < into.byteLength) {
      throw new Problem('damaged', `${segmentName(segment)} ends ${into.byteLength - got} bytes too early`);
    }
  };
  const failures = rebuildRun(task, rebuilderOf(task), readAt, new Uint8Array(bytes));
  await closeSome();
  const outcome: RebuiltRun = { bytes, failures };
  return move({ [transferableSymbol]: [bytes], [valueSymbol]: outcome });
}
