/**
 * The worker threads of a process server. One task = one batch to seal, or one range of checksums to compare; memory transferred in and out.
 *
 *  1. Bounded: at most `poolQueueTasksMax` tasks are with the threads or queued for them; further callers wait in order. Bytes are
 *     bounded by the windows the sessions were granted (`budget.ts`), and by `comparisonBytesMax`.
 *  2. A running task is never aborted: that would kill its thread. A session that ends just forgets the outcome.
 */
import { fileURLToPath } from 'node:url';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import { ThreadPool } from '../kit/thread-pool.ts';
import { limits } from '../limits.ts';
import type { CompareOutcome, CompareTask } from './compare-checksums.ts';
import type { SealOutcome, SealTask } from './seal-batch.ts';

/** What sessions need of a pool. */
export interface Sealer {
  /** Takes the task's buffer; it is gone here until it comes back in the outcome. */
  seal(task: SealTask): Promise<SealOutcome>;
  /** Takes both buffers of the task. */
  compare(task: CompareTask): Promise<CompareOutcome>;
  /** Tasks handed in and not done. */
  readonly pending: number;
}

/** Beside this file, with its extension: `.ts` when sources run, `.js` when the compiled tree runs. */
function workerPath(): string {
  const self = fileURLToPath(import.meta.url);
  return self.replace(/pool(\.[cm]?[jt]s)$/, 'worker$1');
}

/** The tasks by the name of the worker's export. */
interface Tasks {
  readonly default: { readonly task: SealTask; readonly outcome: SealOutcome };
  readonly compare: { readonly task: CompareTask; readonly outcome: CompareOutcome };
}

export class SealPool implements Sealer {
  readonly #slots = new Credit(limits.processServer.poolQueueTasksMax);
  readonly #pool: ThreadPool<SealTask | CompareTask, unknown>;
  #pending = 0;

  /** @param options.threads worker threads, all started at once; one per core is right. */
  constructor(options: { threads: number }) {
    this.#pool = new ThreadPool<SealTask | CompareTask, unknown>({
      filename: workerPath(),
      minThreads: options.threads,
      maxThreads: options.threads,
      maxQueue: limits.processServer.poolQueueTasksMax,
    });
  }

  get pending(): number {
    return this.#pending;
  }

  /** More than its threads work on now. */
  get isCrowded(): boolean {
    return this.#pending > this.threads;
  }

  get threads(): number {
    return this.#pool.threads;
  }

  seal(task: SealTask): Promise<SealOutcome> {
    return this.#run('default', task, [task.buffer]);
  }

  compare(task: CompareTask): Promise<CompareOutcome> {
    return this.#run('compare', task, [task.source, task.target]);
  }

  async #run<Name extends keyof Tasks>(
    name: Name,
    task: Tasks[Name]['task'],
    transferList: ArrayBuffer[],
  ): Promise<Tasks[Name]['outcome']> {
    this.#pending += 1;
    try {
      await this.#slots.take(1);
      try {
        return (await this.#pool.run(task, { name, transferList })) as Tasks[Name]['outcome'];
      } finally {
        this.#slots.give(1);
      }
    } finally {
      this.#pending -= 1;
    }
  }

  /** Ends the threads; what they have is finished before, tasks that still wait are refused. Idempotent. */
  async close(): Promise<void> {
    this.#slots.end(new Problem('shutting-down', 'the process server is shutting down', { retryable: true }));
    await this.#pool.end();
  }
}
