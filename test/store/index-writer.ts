/**
 * Writes an index without end, in a process of its own, to be killed or read beside. Batch n (from 0) is batch n mod 10 of layer
 * 1 + n/10 and ends at log position (1, n + 1), so the position alone says what must be there. Prints the position it has committed.
 */
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { RecordIndex, type AppliedBatch } from '../../src/store/record-index.ts';

export const batchesPerLayer = 10;
export const recordsPerBatch = 50;

export function seqOfBatch(number: number): number {
  return 1 + Math.floor(number / batchesPerLayer);
}

/** Blocks of batch `number`: ascending within a layer, overlapping from layer to layer. */
export function batchAt(number: number): AppliedBatch {
  const within = number % batchesPerLayer;
  const rows = Array.from({ length: recordsPerBatch }, (_, index) => ({
    block: within * recordsPerBatch * 2 + index * 2 + (seqOfBatch(number) % 2),
    pageMask: number % 3 === 0 ? 0xffff : 1 << (number % 16),
    codec: 1,
    storedLength: 10,
    rawLength: 256,
    nonce: number,
    leaf: Buffer.alloc(32, number & 0xff),
    tag: Buffer.alloc(16, 1),
  }));
  return { segment: 1, entryOffset: number, payloadOffset: number * 1000, rows };
}

async function write(directory: string): Promise<void> {
  const index = await RecordIndex.open({ files: posixFiles, directory, bootId: 'boot' });
  for (let number = index.position.offset; ; number += 1) {
    await index.room();
    const seq = seqOfBatch(number);
    const position = { segment: 1, offset: number };
    if (number % batchesPerLayer === 0) index.applyLayer(0, seq, Buffer.alloc(56, seq & 0xff), position);
    index.applyBatch(0, seq, number % batchesPerLayer, batchAt(number), { segment: 1, offset: number + 1 });
    if (number % 7 === 0) await systemClock.turn();
    if (number % 100 === 99) {
      await index.flushed();
      process.stdout.write(`${number + 1}\n`);
    }
  }
}

if (process.argv[2] === 'write' && process.argv[3] !== undefined) await write(process.argv[3]);
