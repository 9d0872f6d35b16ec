/**
 * The way out over one connection to the target: takes from the backlog what is next, and sends it when it may.
 *
 *  1. A SEALED body is sent only after its bytes were taken from the credit the target granted (C5), and before that from the throttle.
 *  2. One frame is with the socket at a time.
 *  3. A batch is sent behind the CYCLE of its layer, on each connection anew.
 *  4. The first failure is told once; behind it nothing is sent. That the connection closed is no failure of the sender: whoever owns it knows.
 */
import type { Clock } from '../kit/clock.ts';
import type { Credit } from '../kit/credit.ts';
import { isProblem } from '../kit/problem.ts';
import type { Connection } from '../transport/connection.ts';
import { frameHeaderBytes } from '../wire/frame.ts';
import { decodePointMessage, encodePointMessage } from '../wire/point.ts';
import type { Backlog } from './backlog.ts';
import type { SessionCounters } from './counters.ts';
import type { Kept } from './kept.ts';
import type { LayerStart } from './spool-log.ts';
import type { EgressThrottle } from './throttle.ts';
import type { WaitingPoints } from './waiting-points.ts';
import type { Waits } from './waits.ts';

export interface SenderOptions {
  readonly connection: Connection;
  readonly backlog: Backlog;
  /** What the target granted on this connection. */
  readonly credit: Credit;
  readonly throttle: EgressThrottle;
  readonly points: WaitingPoints;
  /** Whether neighbouring points are to be merged now. */
  readonly isAboveMark: () => boolean;
  /** Of whom it is now. */
  readonly counters: () => SessionCounters;
  readonly clock: Clock;
  readonly waits: Waits;
  readonly onFailure: (error: unknown) => void;
}

export class Sender {
  readonly #options: SenderOptions;
  /** Resolves when it uses nothing any more. */
  readonly stopped: Promise<void>;
  /** Of each disk the layer that this connection is at. */
  readonly #current = new Map<number, number>();
  #stalledSinceMs: number | null = null;
  #ended = false;

  constructor(options: SenderOptions) {
    this.#options = options;
    this.stopped = this.#run();
  }

  /** Since when, on the monotonic clock, the target keeps the head waiting; null: it does not. */
  get stalledSinceMs(): number | null {
    return this.#stalledSinceMs;
  }

  /** What is with the socket still goes. Idempotent. */
  end(reason: Error): void {
    this.#ended = true;
    this.#options.credit.end(reason);
    this.#options.throttle.end(reason);
    this.#options.backlog.changed.notify();
  }

  async #run(): Promise<void> {
    const { backlog } = this.#options;
    try {
      while (!this.#isOver()) {
        const entry = await backlog.next(() => this.#ended);
        if (!entry) return;
        try {
          await this.#send(entry);
        } finally {
          this.#stalledSinceMs = null;
          backlog.sent(entry);
        }
      }
    } catch (error) {
      if (this.#isOver() || (isProblem(error) && error.code === 'closed')) return; // 4
      this.#ended = true;
      this.#options.onFailure(error);
    }
  }

  #isOver(): boolean {
    return this.#ended;
  }

  async #send(entry: Kept): Promise<void> {
    const { waits, clock } = this.#options;
    switch (entry.kind) {
      case 'sealed': {
        await this.#sendSealed(entry);
        return;
      }
      case 'cycle': {
        if (entry.layer) await this.#begin(entry.layer);
        return;
      }
      case 'point': {
        await this.#sendPoint(entry);
        return;
      }
      case 'control':
      case 'gap': {
        await entry.ready?.();
        waits.for('target');
        this.#stalledSinceMs = clock.monotonicMs();
        if (entry.frame) await this.#options.connection.send(entry.frame);
      }
    }
  }

  async #begin(layer: LayerStart): Promise<void> {
    if (this.#current.get(layer.disk) === layer.seq) return;
    this.#current.set(layer.disk, layer.seq);
    this.#options.waits.for('target');
    this.#stalledSinceMs ??= this.#options.clock.monotonicMs();
    await this.#options.connection.send(layer.frame);
  }

  async #sendPoint(entry: Kept): Promise<void> {
    const { backlog, connection, points, isAboveMark, counters, clock, waits } = this.#options;
    let { frame } = entry;
    if (!frame) return;
    if (backlog.keep) {
      const message = decodePointMessage(frame.subarray(frameHeaderBytes));
      const whole = points.turn(message, isAboveMark());
      if (!whole) {
        counters().pointsMerged += 1;
        backlog.leaveOut(entry);
        return;
      }
      if (whole !== message) frame = encodePointMessage(whole);
    }
    waits.for('target');
    this.#stalledSinceMs = clock.monotonicMs();
    await connection.send(frame);
  }

  async #sendSealed(entry: Kept): Promise<void> {
    const { clock, connection, counters, credit, throttle, backlog, waits } = this.#options;
    if (!entry.frame) waits.for('pool');
    const frame = await backlog.seal(entry);
    const { layer } = entry;
    if (this.#ended || !layer) return;
    const bodyBytes = frame.byteLength - frameHeaderBytes;
    const readyMs = clock.monotonicMs();
    waits.for('throttle');
    await throttle.take(bodyBytes, layer.kind);
    const allowedMs = clock.monotonicMs();
    waits.for('target');
    this.#stalledSinceMs = allowedMs;
    await this.#begin(layer); // 3
    await credit.take(bodyBytes); // 1
    const takenMs = clock.monotonicMs();
    entry.sentAtMs = takenMs;
    await connection.send(frame, { room: true });
    const sums = counters();
    sums.stageMs.credit += takenMs - readyMs;
    sums.stageMs.send += clock.monotonicMs() - takenMs;
    sums.sealedBytesOut += bodyBytes;
    if (entry.place) sums.drainedBytes += bodyBytes;
  }
}
