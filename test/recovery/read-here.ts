/**
 * Instead of the pool of reading threads: the same kernel on the calling thread. Keeps nothing between two tasks, not even open files: tests
 * replace them.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import * as path from 'node:path';
import { Problem } from '../../src/kit/problem.ts';
import type { RunReader } from '../../src/recovery/read-pool.ts';
import type { RebuiltRun } from '../../src/recovery/read-worker.ts';
import { BlockRebuilder } from '../../src/store/rebuild.ts';
import { rebuildRun, type RebuildTask } from '../../src/store/rebuild-run.ts';
import { segmentName } from '../../src/store/segment-format.ts';

export class ReadHere implements RunReader {
  readonly availableBytes = 0;

  async read(task: RebuildTask): Promise<RebuiltRun> {
    await Promise.resolve();
    const bytes = new ArrayBuffer(task.blocks * task.disk.blockSize);
    const rebuilder = new BlockRebuilder(task.disk, (seq) => task.layers.get(seq));
    const open = new Map<number, number>();
    const readAt = (segment: number, into: Uint8Array, offset: number): void => {
      const fd = open.get(segment) ?? openSync(path.join(task.segments, segmentName(segment)), 'r');
      open.set(segment, fd);
      if (readSync(fd, into, 0, into.byteLength, offset) < into.byteLength) throw new Problem('damaged', 'too short');
    };
    try {
      return { bytes, failures: rebuildRun(task, rebuilder, readAt, new Uint8Array(bytes)) };
    } finally {
      for (const fd of open.values()) closeSync(fd);
    }
  }

  giveBack(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
