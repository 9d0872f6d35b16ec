/**
 * The leases of a process server: taken from control when a machine comes, renewed while it is here, given up when it is gone (C9).
 *
 *  1. A lease is believed for `leaseMs` from *before* it was asked for, by the monotonic clock, less `stopEarlyMs`: control counts from later, so it is
 *     over here first. Then the machine's session ends, whatever the reason that it was not renewed. (That clock stands still while the host is suspended: what is
 *     sent after that is refused by the target, which knows the newer epoch.)
 *  2. One question to control at a time; what comes meanwhile goes with the next, which follows at once: one that hangs delays a renewal, and costs none.
 *  3. A process server that is the only one of its site goes on when control is away: nobody else can have taken its machines.
 *  4. A lease nobody uses here for a while is given up, so that an agent that went elsewhere is taken there; not while control is away, because then
 *     nobody could take it, nor get it back here.
 */
import { epochMax, type LeaseAnswer, type LeaseAsk, type LeasesReply } from '../control/lease-schemas.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';

const { renewEveryMs, stopEarlyMs, takeWaitMs, machinesPerAskMax } = limits.leases;

export interface LeaseKeeperOptions {
  /** Asks control. Rejects when it does not answer, or can not decide. */
  readonly ask: (machines: readonly LeaseAsk[]) => Promise<LeasesReply>;
  /** Machines with a session, or something spooled, here. */
  readonly inUse: () => ReadonlySet<string>;
  /** Ends what there is of a machine here, at once. */
  readonly endMachine: (machine: string, reason: Problem) => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Held {
  readonly epoch: number;
  /** Monotonic; 1. */
  readonly untilMs: number;
  readonly end: Timer;
  /** Monotonic: since when nobody has used it; null: somebody does. */
  idleSinceMs: number | null;
}

interface Wanted {
  above: number;
  readonly answer: PromiseWithResolvers<LeaseAnswer>;
}

const notOwner = (message: string): Problem =>
  new Problem('not-owner', message, { remedy: 'the agent goes to the process server that has it', retryable: true });

export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  readonly #held = new Map<string, Held>();
  readonly #wanted = new Map<string, Wanted>();
  readonly #givenUp = new Map<string, number>();
  /** The newest epoch of a target that refused ours. */
  readonly #refused = new Map<string, number>();
  readonly #renewal: Timer;
  #round: Promise<void> | null = null;
  #again = false;
  #alone = false;
  #lost = 0;
  #closed = false;
  #answered = true;

  /** Tells control at once that it is there. */
  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
    this.#renewal = options.clock.every(renewEveryMs, () => void this.#ask());
    void this.#ask();
  }

  /**
   * The lease of a machine, taken if need be; `refused` is told the newest epoch of a target that refused it, and the next one is above.
   * @throws Problem `not-owner`: another has it; `unreachable`: control does not answer; `stale-epoch`: no lease can be above what the target said.
   */
  async admit(machine: string): Promise<{ readonly epoch: number; readonly refused: (newest: number) => void }> {
    const above = this.#refused.get(machine) ?? 0;
    if (above >= epochMax) {
      this.#refused.delete(machine);
      throw new Problem('stale-epoch', `the target has ${machine} under epoch ${above}, and no lease can be above`, {
        remedy: 'see what is wrong with the target: no lease has such an epoch',
        retryable: true,
      });
    }
    const held = this.#held.get(machine);
    const epoch = held && held.epoch > above ? held.epoch : await this.#insist(machine, above);
    this.#refused.delete(machine);
    const refused = (newest: number): void => {
      this.#refused.set(machine, newest);
    };
    return { epoch, refused };
  }

  async #insist(machine: string, above: number): Promise<number> {
    const { clock } = this.#options;
    const giveUpMs = clock.monotonicMs() + takeWaitMs;
    for (;;) {
      const { held: mine, epoch, holder, silent, freeInMs } = await this.#take(machine, above);
      if (mine && epoch !== null) return epoch;
      // Its owner fell silent: it is free soon, and the machine is here.
      const waitMs = Math.max(freeInMs, renewEveryMs / 10);
      if (!silent || clock.monotonicMs() + waitMs > giveUpMs) {
        throw notOwner(`process server ${holder ?? 'unknown'} has machine ${machine}`);
      }
      await clock.sleep(waitMs);
    }
  }

  /** Leases held now. */
  get held(): number {
    return this.#held.size;
  }

  /** Leases of machines that were here, and ended without having been given up. */
  get lost(): number {
    return this.#lost;
  }

  /** Gives all leases up. Resolves when control knows, or can not be told. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true; // No round begins behind the one that is under way.
    this.#renewal.cancel();
    await this.#round;
    for (const machine of this.#held.keys()) this.#giveUp(machine);
    if (this.#givenUp.size > 0) await this.#once().catch(() => undefined);
    for (const { answer } of this.#wanted.values()) answer.reject(notOwner('the process server is shutting down'));
  }

  #take(machine: string, above: number): Promise<LeaseAnswer> {
    if (this.#closed) return Promise.reject(notOwner('the process server is shutting down'));
    const wanted = this.#wanted.get(machine) ?? { above, answer: Promise.withResolvers<LeaseAnswer>() };
    wanted.above = Math.max(wanted.above, above);
    this.#wanted.set(machine, wanted);
    void this.#ask();
    return wanted.answer.promise;
  }

  /** 2. Never rejects. */
  async #ask(): Promise<void> {
    if (this.#closed) return;
    if (this.#round) {
      this.#again = true;
      return;
    }
    this.#round = this.#once().catch((error: unknown) => this.#unanswered(error));
    await this.#round;
    this.#round = null;
    if (!this.#again) return;
    this.#again = false;
    void this.#ask();
  }

  async #once(): Promise<void> {
    this.#giveUpIdle();
    const asks = this.#asks();
    const { clock, ask, logger } = this.#options;
    for (let at = 0; at === 0 || at < asks.length; at += machinesPerAskMax) {
      const part = asks.slice(at, at + machinesPerAskMax);
      const askedMs = clock.monotonicMs(); // 1
      const { leaseMs, alone, machines } = await ask(part);
      this.#alone = alone;
      for (const [index, answer] of machines.entries()) {
        const asked = part[index];
        if (asked) this.#answer(asked, answer, askedMs + leaseMs - stopEarlyMs);
      }
    }
    if (!this.#answered) logger.info({}, 'leases are renewed again');
    this.#answered = true;
  }

  #asks(): LeaseAsk[] {
    const keep = [...this.#held].map(([machine, { epoch }]) => ({ machine, want: 'keep', epoch }) as const);
    const giveUp = [...this.#givenUp].map(([machine, epoch]) => ({ machine, want: 'give-up', epoch }) as const);
    const take = [...this.#wanted].map(([machine, { above }]) => ({ machine, want: 'take', epoch: above }) as const);
    const taken = new Set(this.#wanted.keys());
    return [...giveUp, ...keep.filter(({ machine }) => !taken.has(machine)), ...take];
  }

  #answer({ machine, want }: LeaseAsk, answer: LeaseAnswer, untilMs: number): void {
    if (want === 'give-up') {
      this.#givenUp.delete(machine);
      return;
    }
    if (answer.held && answer.epoch !== null) this.#hold(machine, answer.epoch, untilMs);
    else if (this.#held.has(machine))
      this.#lose(machine, `process server ${answer.holder ?? 'none'} has machine ${machine} now`);
    if (want !== 'take') return;
    this.#wanted.get(machine)?.answer.resolve(answer);
    this.#wanted.delete(machine);
  }

  #hold(machine: string, epoch: number, untilMs: number): void {
    const { clock } = this.#options;
    const before = this.#held.get(machine);
    before?.end.cancel();
    const end = clock.after(Math.max(0, untilMs - clock.monotonicMs()), () => this.#expire(machine));
    this.#held.set(machine, { epoch, untilMs, end, idleSinceMs: before?.idleSinceMs ?? null });
  }

  #expire(machine: string): void {
    if (!this.#alone) this.#lose(machine, `the lease of machine ${machine} is over and control did not renew it`); // 3
  }

  #lose(machine: string, why: string): void {
    this.#held.get(machine)?.end.cancel();
    this.#held.delete(machine);
    const { inUse, endMachine, logger } = this.#options;
    // Else nothing was lost here: its agent went elsewhere, be it to another shard of this process server.
    if (inUse().has(machine)) {
      this.#lost += 1;
      logger.warn({ machine }, why);
    }
    endMachine(machine, notOwner(why));
  }

  /** 4. Grace is time, not rounds, of which there are many when many machines come: a session that broke comes back at once. */
  #giveUpIdle(): void {
    const inUse = this.#options.inUse();
    const nowMs = this.#options.clock.monotonicMs();
    for (const [machine, held] of this.#held) {
      held.idleSinceMs = inUse.has(machine) || this.#wanted.has(machine) ? null : (held.idleSinceMs ?? nowMs);
      if (this.#answered && held.idleSinceMs !== null && nowMs - held.idleSinceMs >= renewEveryMs)
        this.#giveUp(machine);
    }
  }

  #giveUp(machine: string): void {
    const held = this.#held.get(machine);
    if (!held) return;
    held.end.cancel();
    this.#held.delete(machine);
    this.#givenUp.set(machine, held.epoch);
  }

  #unanswered(error: unknown): void {
    const why = `control does not answer about leases: ${messageOf(error)}`;
    if (this.#answered) this.#options.logger.warn({ alone: this.#alone }, why);
    this.#answered = false;
    // Who was given up is free soon all by itself.
    this.#givenUp.clear();
    // Others may have come since it was the only one: what was over then, and is not renewed now, is over.
    const nowMs = this.#options.clock.monotonicMs();
    for (const [machine, { untilMs }] of this.#held) if (untilMs <= nowMs) this.#expire(machine);
    const problem = new Problem('unreachable', why, {
      remedy: 'see whether control and its state run',
      retryable: true,
    });
    for (const { answer } of this.#wanted.values()) answer.reject(problem);
    this.#wanted.clear();
  }
}
