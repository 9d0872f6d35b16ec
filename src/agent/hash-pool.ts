/**
 * Hashing on worker threads, which read the disk's file themselves. The threads live only while a survey needs them.
 *
 * A capture without a `source`, and one whose file can not be opened twice, is read through the capture instead.
 */
import { fileURLToPath } from 'node:url';
import type { CaptureDisk } from '../capture/contract.ts';
import { limits } from '../limits.ts';
import type { BlockHasher, Run } from './hash-blocks.ts';
import { Problem } from '../kit/problem.ts';
import { ThreadPool } from '../kit/thread-pool.ts';
import type { HashFailure, HashTask } from './hash-runs.ts';

/** Beside this file, with its extension: `.ts` when sources run, `.js` when the compiled tree runs. */
function workerPath(): string {
  const self = fileURLToPath(import.meta.url);
  return self.replace(/hash-pool(\.[cm]?[jt]s)$/, 'hash-worker$1');
}

export class HashPool implements BlockHasher {
  readonly width: number;
  readonly #inline: BlockHasher;
  readonly #pool: ThreadPool<HashTask, ArrayBuffer | HashFailure>;

  /** @param options.inline for captures without a source. */
  constructor(options: { threads: number; inline: BlockHasher }) {
    // One more than threads, so that none waits for this one.
    this.width = options.threads + 1;
    this.#inline = options.inline;
    this.#pool = new ThreadPool<HashTask, ArrayBuffer | HashFailure>({
      filename: workerPath(),
      minThreads: 0,
      maxThreads: options.threads,
      maxQueue: limits.disk.perMachineMax * this.width,
      idleTimeout: limits.agent.hashThreadIdleMs,
    });
  }

  async hash(capture: CaptureDisk, leafKey: Uint8Array, runs: readonly Run[]): Promise<Uint8Array> {
    const { source, geometry } = capture;
    if (source === null) return this.#inline.hash(capture, leafKey, runs);
    const { size, blockSize } = geometry;
    // A copy of its own: a view would be posted with all the memory behind it.
    const task = { ...source, size, blockSize, leafKey: Uint8Array.from(leafKey), runs: Uint32Array.from(flat(runs)) };
    const outcome = await this.#pool.run(task);
    if (outcome instanceof ArrayBuffer) return new Uint8Array(outcome);
    throw new Problem(outcome.code, `disk ${capture.name} can not be read and hashed: ${outcome.message}`, {
      remedy: 'look at the disk; if its file was replaced, restart the agent',
      retryable: true,
    });
  }

  /** Ends the threads; what they have is finished before. Idempotent. */
  async close(): Promise<void> {
    await this.#pool.end();
  }
}

function* flat(runs: readonly Run[]): Generator<number> {
  for (const { first, count } of runs) yield* [first, count];
}
