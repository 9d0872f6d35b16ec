/**
 * Deliveries without an agent: what was spooled when it left, and what an earlier process left on disk (SPOOL.md, "When"). They go on until all is
 * delivered, or of no use. While there is one of a machine, its agent is told `draining`.
 */
import { Problem } from '../kit/problem.ts';
import type { Logger } from '../observe/logger.ts';
import { newCounters, type SessionCounters } from './counters.ts';
import { Delivery } from './delivery.ts';
import type { DeliveryOwner, DeliveryParts, Remains } from './delivery-parts.ts';

interface Drain {
  readonly delivery: Delivery;
  readonly counters: SessionCounters;
  /** What its connections had carried before. */
  readonly carriedBefore: { readonly in: number; readonly out: number };
}

const nothing = { in: 0, out: 0 };

export class Drains {
  readonly #parts: DeliveryParts;
  readonly #logger: Logger;
  /** What a drain counted is told when it ends. */
  readonly #ended: (machine: string, counters: SessionCounters) => void;
  readonly #byMachine = new Map<string, Drain>();
  /** By machine: ends when the files of one that ended are gone. */
  readonly #leaving = new Map<string, Promise<void>>();
  #recovering: Promise<void> | null;
  #closed = false;

  constructor(parts: DeliveryParts, ended: (machine: string, counters: SessionCounters) => void) {
    this.#parts = parts;
    this.#logger = parts.logger;
    this.#ended = ended;
    this.#recovering = parts.spool ? this.#recover() : null;
  }

  get deliveries(): Delivery[] {
    return [...this.#byMachine.values()].map(({ delivery }) => delivery);
  }

  get counters(): ReadonlyMap<string, SessionCounters> {
    return new Map([...this.#byMachine].map(([machine, { counters }]) => [machine, counters]));
  }

  /** `SessionOptions.admitted`. */
  admitted(machine: string): Promise<void> | null {
    if (!this.#recovering && !this.#leaving.has(machine) && !this.#byMachine.has(machine)) return null;
    return this.#admit(machine);
  }

  /** A session ended: what it spooled goes on, or `remains` says what becomes of it. */
  take(delivery: Delivery, reason: Problem, remains: Remains): void {
    const { machine } = delivery;
    const counters = newCounters();
    if (remains === 'dropped' && delivery.detach(this.#owner(machine), counters)) {
      this.#byMachine.set(machine, { delivery, counters, carriedBefore: delivery.link.carried });
      this.#logger.info(
        { machine, bytes: delivery.report.bytes },
        'what was spooled of a machine goes on without its agent',
      );
    } else this.#leave(delivery, reason, remains);
  }

  /** Idempotent. */
  end(machine: string, reason: Problem, remains: Remains): void {
    const drain = this.#byMachine.get(machine);
    if (!drain) return;
    this.#byMachine.delete(machine);
    this.#leave(drain.delivery, reason, remains);
    const { delivery, counters, carriedBefore: before } = drain;
    const { in: bytesIn, out: bytesOut } = delivery.link.carried;
    const carried = { targetBytesIn: bytesIn - before.in, targetBytesOut: bytesOut - before.out };
    this.#ended(machine, { ...counters, ...carried });
  }

  /** Ends all of them, also those that are found later; what is on disk stays. */
  close(reason: Problem): void {
    this.#closed = true;
    for (const machine of [...this.#byMachine.keys()]) this.end(machine, reason, 'kept');
  }

  /** Resolves when no file is in use. */
  async settled(): Promise<void> {
    await this.#recovering;
    await Promise.all(this.#leaving.values());
  }

  async #admit(machine: string): Promise<void> {
    await this.#recovering;
    await this.#leaving.get(machine);
    const drain = this.#byMachine.get(machine);
    if (!drain) return;
    const { bytes, points } = drain.delivery.report;
    throw new Problem('draining', `${bytes} bytes and ${points} points of the machine wait here for its target`, {
      remedy: 'nothing: it goes on by itself; when it takes long, look at the target',
      retryable: true,
    });
  }

  #owner(machine: string): DeliveryOwner {
    return {
      welcomed: () => undefined,
      heard: () => undefined,
      freed: () => undefined,
      room: () => undefined,
      tick: () => undefined,
      resumable: () => true,
      isOutOfCredit: () => false,
      failed: (error) => {
        if (error === null) this.#logger.info({ machine }, 'all that was spooled of a machine is delivered');
        this.end(machine, new Problem('closed', 'it is over', { retryable: true }), 'dropped');
      },
    };
  }

  #leave(delivery: Delivery, reason: Problem, remains: Remains): void {
    const { machine } = delivery;
    const before = this.#leaving.get(machine);
    const leaving = Promise.all([before, delivery.end(reason, remains)]).then(() => {
      if (this.#leaving.get(machine) === leaving) this.#leaving.delete(machine);
    });
    this.#leaving.set(machine, leaving);
  }

  async #recover(): Promise<void> {
    for (const recovered of (await this.#parts.spool?.recover()) ?? []) {
      if (this.#closed) break;
      const { machine } = recovered.owner;
      const counters = newCounters();
      const delivery = new Delivery(this.#parts, this.#owner(machine), { machine, counters, recovered });
      this.#byMachine.set(machine, { delivery, counters, carriedBefore: nothing });
      const { bytes, points } = delivery.report;
      this.#logger.info({ machine, bytes, points }, 'what an earlier process spooled of a machine goes on');
      delivery.start();
    }
    this.#recovering = null;
  }
}
