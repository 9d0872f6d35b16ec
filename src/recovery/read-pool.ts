/**
 * The worker threads that read points: sealed records are read, opened and checked there, and come back as plain blocks. They live only
 * while there is work. One pool serves all images of a process.
 *
 *  1. Bounded: what is with the threads is at most `runsInFlightBytes` of blocks; further callers wait in order (C5).
 *  2. A running task is never aborted: that would kill its thread. Who is not interested any more forgets the outcome.
 */
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { RebuildTask } from '../store/rebuild-run.ts';
import type { RebuiltRun } from './read-worker.ts';

/** What images need of a pool. */
export interface RunReader {
  /** @throws Problem `shutting-down`. */
  read(task: RebuildTask): Promise<RebuiltRun>;
  /** Bytes of blocks that could be asked for without waiting. */
  readonly availableBytes: number;
}

/** Beside this file, with its extension: `.ts` when sources run, `.js` when the compiled tree runs. */
function workerPath(): string {
  const self = fileURLToPath(import.meta.url);
  return self.replace(/read-pool(\.[cm]?[jt]s)$/, 'read-worker$1');
}

export class ReadPool implements RunReader {
  readonly #credit = new Credit(limits.recovery.runsInFlightBytes);
  readonly #piscina: Piscina<RebuildTask, RebuiltRun>;

  /** @param options.threads worker threads at most; one per core is right. */
  constructor(options: { readonly threads: number }) {
    this.#piscina = new Piscina<RebuildTask, RebuiltRun>({
      filename: workerPath(),
      minThreads: 0,
      maxThreads: options.threads,
      maxQueue: limits.recovery.runsInFlightBytes / limits.disk.blockBytesMin,
      idleTimeout: limits.recovery.readThreadIdleMs,
      atomics: 'async',
    });
  }

  get availableBytes(): number {
    return this.#credit.available;
  }

  async read(task: RebuildTask): Promise<RebuiltRun> {
    const bytes = task.blocks * task.disk.blockSize;
    await this.#credit.take(bytes);
    try {
      return await this.#piscina.run(task);
    } finally {
      this.#credit.give(bytes);
    }
  }

  /** Ends the threads; what is under way is refused. Idempotent. */
  async close(): Promise<void> {
    this.#credit.end(new Problem('shutting-down', 'reading was ended', { retryable: true }));
    await this.#piscina.destroy();
  }
}
