/**
 * Who may have how much in flight (C5). A session is granted a window of plain bytes; what was granted comes back when the target
 * made it durable. Granted bytes can not be called back, so the memory is cut in two:
 *
 *  1. One half guarantees `sessionWindowBytesMin` to every session; when it is given away, new sessions are refused `overloaded`.
 *  2. The other half lets busy sessions grow, step by step as their batches become durable, up to `sessionWindowBytes` and up to
 *     an equal share. A session above its share (others came) shrinks as its bytes come back.
 *  3. The sum of all windows never exceeds the total, whatever sessions do.
 *  4. Above `inFlightBytesFree` windows grow only while the pool has a thread to spare: what waits for a thread comes no sooner for being here, and its
 *     memory is out of the processor's caches when its turn comes (with 64 agents 250 MiB less, and 5–10 % of the CPU, at the same throughput).
 */
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';

export class Window {
  readonly #budget: Budget;
  #size: number;
  #ungranted: number;
  #left = false;

  constructor(budget: Budget, size: number) {
    this.#budget = budget;
    this.#size = size;
    this.#ungranted = size;
  }

  /** Bytes this session may have in flight now, granted or in use. */
  get size(): number {
    return this.#size;
  }

  /** `bytes` that were granted came back. */
  returned(bytes: number): void {
    if (this.#left) return;
    this.#ungranted += bytes;
    const wanted = Math.min(this.#budget.shareOf(), this.#size + bytes);
    const change = wanted > this.#size ? this.#budget.grow(wanted - this.#size) : wanted - this.#size;
    // Only what is not granted can be given up.
    const applied = Math.max(change, -this.#ungranted);
    if (applied < 0) this.#budget.shrink(-applied);
    this.#size += applied;
    this.#ungranted += applied;
  }

  /** Takes all that may be granted now; the caller tells the agent so. */
  grant(): number {
    const bytes = this.#ungranted;
    this.#ungranted = 0;
    return bytes;
  }

  /** Gives the window back. Idempotent. */
  leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#budget.left(this.#size);
  }
}

export interface BudgetOptions {
  readonly totalBytes?: number;
  readonly minBytes?: number;
  readonly maxBytes?: number;
  readonly freeBytes?: number;
  /** More waits for the pool than it has threads. */
  readonly isCrowded?: () => boolean;
}

export class Budget {
  readonly #growthBytes: number;
  readonly #sessionsMax: number;
  readonly #minBytes: number;
  readonly #maxBytes: number;
  readonly #freeBytes: number;
  readonly #isCrowded: () => boolean;
  #grown = 0;
  #sessions = 0;

  constructor(options: BudgetOptions = {}) {
    const { inFlightBytesMax, inFlightBytesFree, sessionWindowBytesMin, sessionWindowBytes } = limits.processServer;
    const { totalBytes = inFlightBytesMax, minBytes = sessionWindowBytesMin, maxBytes = sessionWindowBytes } = options;
    this.#freeBytes = options.freeBytes ?? inFlightBytesFree;
    this.#isCrowded = options.isCrowded ?? (() => false);
    this.#minBytes = minBytes;
    this.#maxBytes = maxBytes;
    this.#sessionsMax = Math.max(1, Math.floor(totalBytes / 2 / minBytes));
    this.#growthBytes = Math.max(0, totalBytes - this.#sessionsMax * minBytes);
  }

  /** Bytes granted or in use, all sessions together. */
  get inUseBytes(): number {
    return this.#sessions * this.#minBytes + this.#grown;
  }

  /** What `inUseBytes` never exceeds. */
  get limitBytes(): number {
    return this.#sessionsMax * this.#minBytes + this.#growthBytes;
  }

  /** A window for one more session. @throws Problem `overloaded`. */
  join(): Window {
    if (this.#sessions >= this.#sessionsMax) {
      throw new Problem('overloaded', `all ${this.#sessionsMax} session windows are in use`, {
        remedy: 'add a process server, or wait',
        retryable: true,
      });
    }
    this.#sessions += 1;
    return new Window(this, this.#minBytes);
  }

  /** The largest window a session may have now. */
  shareOf(): number {
    const equal = this.#minBytes + Math.floor(this.#growthBytes / Math.max(1, this.#sessions));
    return Math.min(this.#maxBytes, equal);
  }

  /** Takes up to `bytes` of the growth half; returns what it got. */
  grow(bytes: number): number {
    if (this.inUseBytes >= this.#freeBytes && this.#isCrowded()) return 0;
    const got = Math.min(bytes, this.#growthBytes - this.#grown);
    this.#grown += got;
    return got;
  }

  shrink(bytes: number): void {
    this.#grown -= bytes;
  }

  left(size: number): void {
    this.#sessions -= 1;
    this.#grown -= size - this.#minBytes;
  }
}
