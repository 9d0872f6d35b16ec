/**
 * Credit for what went to the spool: given back at once while there is room, at half the rate at which the target takes when it fills, and not at all
 * when it is full (SPOOL.md, "Levels"). No rate is measured: what leaves the spool allows half as much to come in.
 */
import { limits } from '../limits.ts';
import type { SpoolLevel } from './spool-report.ts';

const { spoolTrickleBytes, sessionWindowBytes } = limits.processServer;

export class HeldCredit {
  readonly #level: () => SpoolLevel;
  readonly #pass: (bytes: number) => void;
  #heldBytes = 0;
  /** What may pass while agents are throttled. */
  #allowedBytes = 0;

  /** @param pass gives so much back. */
  constructor(level: () => SpoolLevel, pass: (bytes: number) => void) {
    this.#level = level;
    this.#pass = pass;
  }

  /** So many plain bytes went to the spool. */
  spooled(bytes: number): void {
    this.#heldBytes += bytes;
    this.#release();
  }

  /** So many plain bytes left it: the target has them. */
  drained(bytes: number): void {
    // What nobody used up is no reason for a burst later.
    this.#allowedBytes = Math.min(sessionWindowBytes, this.#allowedBytes + bytes / 2);
    this.#release();
  }

  /** Every second. */
  tick(): void {
    this.#allowedBytes = Math.max(this.#allowedBytes, spoolTrickleBytes);
    this.#release();
  }

  #release(): void {
    if (this.#heldBytes === 0) return;
    const level = this.#level();
    if (level === 'full') return;
    const bytes = level === 'throttling' ? Math.min(this.#heldBytes, Math.floor(this.#allowedBytes)) : this.#heldBytes;
    if (bytes === 0) return;
    if (level === 'throttling') this.#allowedBytes -= bytes;
    this.#heldBytes -= bytes;
    this.#pass(bytes);
  }
}
