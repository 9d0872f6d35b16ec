/**
 * Whether there is room for more content. Below `stopBytes` free space the store is full, above `resumeBytes` it is not; between
 * them it stays what it was. What lies between `stopBytes` and zero is kept for points and drops.
 *
 * Looked at after every `checkBytes` written, and on a timer while full, so space that comes back is seen without a writer.
 */
import type { Clock, Timer } from '../kit/clock.ts';
import { Serial } from '../kit/serial.ts';
import type { Files } from '../posix/files.ts';

export interface SpaceOptions {
  readonly files: Files;
  readonly directory: string;
  readonly clock: Clock;
  readonly stopBytes: number;
  readonly resumeBytes: number;
  readonly checkBytes: number;
  readonly checkMs: number;
  /** Told when `full` changes. */
  readonly changed: (full: boolean) => void;
}

export class SegmentSpace {
  readonly #options: SpaceOptions;
  #full = false;
  #ended = false;
  #sinceCheck = 0;
  readonly #looks = new Serial();
  #timer: Timer | null = null;

  constructor(options: SpaceOptions) {
    this.#options = options;
  }

  get full(): boolean {
    return this.#full;
  }

  /** Looks now. A file system that can not say counts as neither full nor free: nothing changes. */
  check(): Promise<void> {
    return this.#looks.run(() => this.#look());
  }

  wrote(bytes: number): void {
    this.#sinceCheck += bytes;
    if (this.#sinceCheck < this.#options.checkBytes) return;
    this.#sinceCheck = 0;
    void this.check();
  }

  /** A write found no space, whatever the numbers say. */
  ranOut(): void {
    this.#set(true);
  }

  /** Whether `bytes` can be set aside in advance and still leave room. */
  async hasRoomFor(bytes: number): Promise<boolean> {
    const { files, directory, resumeBytes } = this.#options;
    const free = await files.freeBytes(directory).catch(() => 0);
    return free - bytes > resumeBytes;
  }

  end(): void {
    this.#ended = true;
    this.#timer?.cancel();
    this.#timer = null;
  }

  async #look(): Promise<void> {
    const { files, directory, stopBytes, resumeBytes } = this.#options;
    const free = await files.freeBytes(directory).catch(() => null);
    if (free === null || this.#ended) return;
    if (free < stopBytes) this.#set(true);
    else if (free > resumeBytes) this.#set(false);
  }

  #set(full: boolean): void {
    const { clock, checkMs, changed } = this.#options;
    if (full === this.#full || this.#ended) return;
    this.#full = full;
    this.#timer?.cancel();
    this.#timer = full ? clock.every(checkMs, () => void this.check()) : null;
    changed(full);
  }
}
