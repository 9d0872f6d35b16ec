/**
 * The way out to the target: one queue, in the order the agent sent, whatever order the workers finish in. So a POINT leaves after
 * all batches before it, and a CYCLE between the right ones.
 *
 *  1. A SEALED body is sent only after its bytes were taken from the credit the target granted (C5).
 *  2. One frame is with the socket at a time; waiting ones cost what the windows allow (batches), and, with what a batch costs beside its bytes,
 *     `controlQueueBytesMax` (above it `full` tells the session to stop reading).
 *  3. The first failure is told once, through `onFailure`; everything behind it is dropped.
 */
import type { Clock } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import { KiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';
import { frameHeaderBytes } from '../wire/frame.ts';
import type { SessionCounters } from './counters.ts';
import { frameAt, type SealOutcome } from './seal-batch.ts';
import type { Slabs } from './slabs.ts';

const { controlQueueBytesMax } = limits.processServer;
/** Of a batch that waits, beside its bytes: it may be one of zeros, of 64. */
const batchBytes = 2 * KiB;

export interface EgressOptions {
  readonly connection: Connection;
  readonly clock: Clock;
  readonly slabs: Slabs;
  readonly counters: SessionCounters;
  readonly onFailure: (error: unknown) => void;
  /** The queue of control frames fell below its mark again. */
  readonly onRoom: () => void;
}

/** For a frame on whose behalf something is kept, and that may have to wait when its turn has come. */
export interface Turn {
  /** What is kept until then, beside the frame. */
  readonly waitingBytes?: number;
  /** What is behind waits too. */
  readonly ready?: () => Promise<void>;
}

export class Egress {
  readonly #options: EgressOptions;
  readonly #credit = new Credit(0);
  readonly #queue = new Serial();
  #waitingBytes = 0;
  #ended = false;

  constructor(options: EgressOptions) {
    this.#options = options;
  }

  /** True while so much waits that no more should be read from the agent. */
  get full(): boolean {
    return this.#waitingBytes > controlQueueBytesMax;
  }

  /** The target granted `bytes` more. */
  granted(bytes: number): void {
    this.#credit.give(bytes);
  }

  /** Sends a frame after everything queued before. It is owned here until sent. */
  control(frame: Uint8Array, turn: Turn = {}): void {
    this.#enqueue(frame.byteLength + (turn.waitingBytes ?? 0), async () => {
      await turn.ready?.();
      await this.#options.connection.send(frame);
    });
  }

  /** Sends a sealed frame after everything queued before; `onSent` runs when the socket took it. */
  sealed(outcome: Promise<SealOutcome>, onSent: () => void): void {
    // The queue may end before it comes to this outcome; its failure must not count as unhandled then.
    outcome.catch(() => undefined);
    this.#enqueue(batchBytes, async () => {
      const { clock, connection, counters, slabs } = this.#options;
      const sealed = await outcome;
      if (sealed.outcome === 'leaf-mismatch') {
        throw new Problem('leaf-mismatch', `block ${sealed.block} does not have the leaf its record names`, {
          remedy: 'something flips bits between the disk and here: check the memory of both machines',
          retryable: true,
        });
      }
      const bodyBytes = sealed.frameBytes - frameHeaderBytes;
      const readyMs = clock.monotonicMs();
      await this.#credit.take(bodyBytes); // 1
      const takenMs = clock.monotonicMs();
      onSent();
      await connection.send(new Uint8Array(sealed.buffer, frameAt, sealed.frameBytes), { room: true });
      counters.stageMs.credit += takenMs - readyMs;
      counters.stageMs.send += clock.monotonicMs() - takenMs;
      counters.sealedBytesOut += bodyBytes;
      slabs.give(sealed.buffer);
    });
  }

  /** Drops what waits. Idempotent. */
  end(reason: Error): void {
    this.#ended = true;
    this.#credit.end(reason);
  }

  #enqueue(bytes: number, job: () => Promise<void>): void {
    this.#waitingBytes += bytes;
    const run = async (): Promise<void> => {
      await job();
      const before = this.#waitingBytes;
      this.#waitingBytes -= bytes;
      if (before > controlQueueBytesMax && this.#waitingBytes <= controlQueueBytesMax) this.#options.onRoom();
    };
    void this.#queue.run(() => (this.#ended ? Promise.resolve() : run().catch((error: unknown) => this.#fail(error))));
  }

  #fail(error: unknown): void {
    if (this.#ended) return;
    this.#ended = true; // 3
    this.#options.onFailure(error);
  }
}
