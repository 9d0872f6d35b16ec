/**
 * Moves what waits in memory to the spool, oldest first, one entry at a time, while it is on (SPOOL.md). What the disk refuses stays in memory and is tried
 * again: nothing overtakes it.
 */
import type { Clock } from '../kit/clock.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Backlog } from './backlog.ts';
import type { Kept } from './kept.ts';
import type { Place, SpoolLog } from './spool-log.ts';

export interface SpoolWriterOptions {
  readonly backlog: Backlog;
  readonly log: SpoolLog;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A batch can not be written or sent, ever. */
  readonly failed: (error: unknown) => void;
  /** So many bytes of a frame went to the spool. */
  readonly wrote: (bytes: number) => void;
}

export class SpoolWriter {
  readonly #options: SpoolWriterOptions;
  #isOn = false;
  #running: Promise<void> | null = null;
  #failure: Problem | null = null;
  #abort = new AbortController();

  constructor(options: SpoolWriterOptions) {
    this.#options = options;
  }

  /** Why the newest write failed, until one succeeds. */
  get failure(): Problem | null {
    return this.#failure;
  }

  get isOn(): boolean {
    return this.#isOn;
  }

  /** Idempotent. */
  start(): void {
    if (this.#isOn) return;
    this.#isOn = true;
    this.#abort = new AbortController();
    const before = this.#running;
    this.#running = this.#run(before);
  }

  /** What is being written still is. Idempotent. */
  stop(): void {
    this.#isOn = false;
    this.#failure = null;
    this.#abort.abort();
    this.#options.backlog.changed.notify();
  }

  /** Resolves when it uses nothing any more. */
  get idle(): Promise<void> {
    return this.#running ?? Promise.resolve();
  }

  async #run(before: Promise<void> | null): Promise<void> {
    await before;
    const { backlog, failed } = this.#options;
    const { signal } = this.#abort;
    try {
      while (!signal.aborted) {
        const entry = backlog.beginWrite();
        const outcome = entry ? await this.#write(entry) : 'nothing';
        if (outcome === 'failed') await this.#pause(signal);
        else if (outcome !== 'written') await backlog.changed.wait();
      }
    } catch (error) {
      this.#isOn = false;
      failed(error);
    }
  }

  async #write(entry: Kept): Promise<'written' | 'full' | 'failed'> {
    const { backlog, log } = this.#options;
    let place: Place | null = null;
    try {
      const frame = await backlog.seal(entry);
      try {
        place = await log.append(frame, entry.plainBytes, entry.layer);
      } catch (error) {
        this.#say(error);
        return 'failed';
      }
      if (!place) return 'full';
      this.#failure = null;
      this.#options.wrote(frame.byteLength);
      return 'written';
    } finally {
      backlog.written(entry, place);
    }
  }

  #say(error: unknown): void {
    const { logger } = this.#options;
    const isNews = this.#failure === null;
    const options = {
      remedy: 'make room on its disk, or look for what is wrong with it',
      retryable: true,
      cause: error,
    };
    this.#failure = new Problem('full', `the spool can not be written: ${messageOf(error)}`, options);
    if (isNews) logger.warn({ reason: messageOf(error) }, 'the spool can not be written; what waits stays in memory');
  }

  async #pause(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    await clock.sleep(limits.processServer.spoolRetryMs, signal).catch(() => undefined);
  }
}
