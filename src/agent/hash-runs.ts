/**
 * What a worker thread does: reads runs of blocks of a file or device with plain synchronous reads of a mebibyte into one buffer, skips holes,
 * hashes. Synchronous, because in a thread of its own nothing waits for it, and the shared pool of asynchronous reads is not for this.
 */
import { zeroLeaf } from '../disk/merkle.ts';
import { leafOf } from '../kernels/hash.ts';
import { Problem } from '../kit/problem.ts';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import type { File } from '../posix/files.ts';

export interface HashTask {
  readonly path: string;
  /** Of the file the agent has open. */
  readonly inode: bigint;
  /** Of the disk, bytes: what lies behind it counts as zeros. */
  readonly size: number;
  readonly blockSize: number;
  readonly leafKey: Uint8Array;
  /** first, count, first, count, … */
  readonly runs: Uint32Array;
}

/** Instead of leaves. */
export interface HashFailure {
  /** `source-replaced`, or of the system. */
  readonly code: string;
  readonly message: string;
}

const { leafBytes } = limits.disk;
const buffer = Buffer.allocUnsafeSlow(Math.max(MiB, limits.disk.blockBytesMax));

/** @throws Problem `source-replaced` when another file has the path now; what reading throws. */
export function hashRuns(file: File, task: HashTask): Uint8Array<ArrayBuffer> {
  if (file.facts().inode !== task.inode) {
    throw new Problem('source-replaced', `${task.path} is another file than the one that is captured`);
  }
  let blocks = 0;
  for (let at = 1; at < task.runs.length; at += 2) blocks += task.runs[at] ?? 0;
  const leaves = new Uint8Array(blocks * leafBytes);
  let done = 0;
  for (let at = 0; at < task.runs.length; at += 2) {
    const [first, count] = [task.runs[at] ?? 0, task.runs[at + 1] ?? 0];
    hashRun(file, task, first, count, leaves.subarray(done, done + count * leafBytes));
    done += count * leafBytes;
  }
  return leaves;
}

/** `into` is zeros: the leaves of holes. */
function hashRun(file: File, task: HashTask, first: number, count: number, into: Uint8Array): void {
  const { blockSize, size } = task;
  const start = first * blockSize;
  const end = Math.min((first + count) * blockSize, size);
  for (let at = start; at < end;) {
    const extent = file.extentSync(at, end - at);
    // Whole blocks of a hole need no look; a block that begins with one is read.
    const skipped = at + extent.length >= end ? end - at : Math.floor(extent.length / blockSize) * blockSize;
    if (extent.hole && skipped > 0) at += skipped;
    else {
      const untilData = extent.hole ? blockSize : Math.ceil(extent.length / blockSize) * blockSize;
      const length = Math.min(untilData, end - at, buffer.byteLength);
      hashRead(file, task, at, length, into.subarray(((at - start) / blockSize) * leafBytes));
      at += length;
    }
  }
}

/** `at` is the start of a block, `length` whole blocks or up to the end of the disk. */
function hashRead(file: File, task: HashTask, at: number, length: number, into: Uint8Array): void {
  const { blockSize, leafKey } = task;
  const padded = Math.ceil(length / blockSize) * blockSize;
  const got = file.readSync(buffer.subarray(0, length), at);
  buffer.fill(0, got, padded);
  for (let offset = 0, number = 0; offset < padded; offset += blockSize, number += 1) {
    const leaf = leafOf(leafKey, buffer.subarray(offset, offset + blockSize));
    if (leaf !== zeroLeaf) into.set(leaf, number * leafBytes);
  }
}
