/**
 * The worker threads that read points: sealed records are read, opened and checked there, and come back as plain blocks. They live only
 * while there is work. One pool serves all images of a process.
 *
 *  1. Bounded: what is with the threads is at most `runsInFlightBytes` of blocks; further callers wait in order (C5).
 *  2. Memory of runs of the usual size goes round: who has done with a run may `giveBack` its bytes, which are detached there and then. Fresh memory
 *     for every run costs more than half of what the kernels cost, in page faults and garbage collection.
 *  3. A running task is never aborted: that would kill its thread. Who is not interested any more forgets the outcome.
 */
import { fileURLToPath } from 'node:url';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import { ThreadPool } from '../kit/thread-pool.ts';
import { limits } from '../limits.ts';
import type { RebuildTask } from '../store/rebuild-run.ts';
import type { RebuiltRun } from './read-worker.ts';
import { SpareMemory } from './spare-memory.ts';

/** What images need of a pool. */
export interface RunReader {
  /** @throws Problem `shutting-down`. */
  read(task: RebuildTask): Promise<RebuiltRun>;
  /** Takes the bytes of a run that nobody looks at any more. */
  giveBack(bytes: ArrayBuffer): void;
  /** Bytes of blocks that could be asked for without waiting. */
  readonly availableBytes: number;
}

const { runBytes, runsInFlightBytes } = limits.recovery;
/** A thread has the next task before it is done with one: else it stands still until this thread's event loop turns. */
const tasksPerThread = 2;

function ended(): Problem {
  return new Problem('shutting-down', 'the reading of points was ended', { retryable: true });
}

/** Beside this file, with its extension: `.ts` when sources run, `.js` when the compiled tree runs. */
function workerPath(): string {
  const self = fileURLToPath(import.meta.url);
  return self.replace(/read-pool(\.[cm]?[jt]s)$/, 'read-worker$1');
}

export class ReadPool implements RunReader {
  readonly #credit = new Credit(runsInFlightBytes);
  readonly #pool: ThreadPool<RebuildTask, RebuiltRun>;
  readonly #spare = new SpareMemory(runBytes, runsInFlightBytes / runBytes);
  #closed = false;

  /** @param options.threads worker threads at most; one per core is right. */
  constructor(options: { readonly threads: number }) {
    this.#pool = new ThreadPool<RebuildTask, RebuiltRun>({
      filename: workerPath(),
      minThreads: 0,
      maxThreads: options.threads,
      concurrentTasksPerWorker: tasksPerThread,
      maxQueue: runsInFlightBytes / limits.disk.blockBytesMin,
      idleTimeout: limits.recovery.readThreadIdleMs,
    });
  }

  get availableBytes(): number {
    return this.#credit.available;
  }

  async read(task: RebuildTask): Promise<RebuiltRun> {
    const bytes = task.blocks * task.disk.blockSize;
    await this.#credit.take(bytes);
    try {
      const spare = bytes === runBytes ? this.#spare.take() : undefined;
      if (!spare) return await this.#pool.run(task);
      return await this.#pool.run({ ...task, into: spare }, { transferList: [spare] });
    } catch (error) {
      throw this.#closed ? ended() : error;
    } finally {
      this.#credit.give(bytes);
    }
  }

  giveBack(bytes: ArrayBuffer): void {
    this.#spare.give(bytes);
  }

  /** Ends the threads; what they have is finished before, what waits for its turn is refused `shutting-down`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#spare.clear();
    this.#credit.end(ended());
    await this.#pool.end();
  }
}
