/** Instead of the pool of reading threads: the same work, by the same function, on the calling thread. */
import { valueSymbol } from 'piscina';
import type { RunReader } from '../../src/recovery/read-pool.ts';
import read, { type RebuiltRun } from '../../src/recovery/read-worker.ts';
import type { RebuildTask } from '../../src/store/rebuild-run.ts';

export class ReadHere implements RunReader {
  readonly availableBytes = 0;

  async read(task: RebuildTask): Promise<RebuiltRun> {
    const moved = (await read(task)) as Record<symbol, RebuiltRun>;
    const run = moved[valueSymbol];
    if (!run) throw new Error('a worker gives a run');
    return run;
  }

  giveBack(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
