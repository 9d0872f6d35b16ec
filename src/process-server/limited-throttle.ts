/**
 * The throttle with limits: each machine's own and its policy's pace the credit of its agent, the process server's pace what leaves for the targets.
 * What the limits are is told (`tell`), again and again; they hold from then on.
 *
 * Invariants:
 *  1. Credit is charged once: when it is given, or, where it could not be paced (given while there was no limit, or saved up by an agent that
 *     had nothing to send), when it is used. So what an agent sends keeps to its limit from the first byte after a pause.
 *  2. An agent that waits always gets enough for the largest batch there is: what is held back is only what goes beyond.
 *  3. Of a machine a link is kept while control tells of it: who connects again does not begin anew.
 *  4. A process server that is one of several on one port (`share`) has its part of what they share: its own limit and those of policies.
 */
import type { Clock } from '../kit/clock.ts';
import { PacedLink } from '../kit/paced-link.ts';
import type { RateTable } from '../kit/rate-table.ts';
import type { Priority } from '../kit/shares.ts';
import { limits } from '../limits.ts';
import type { AgentThrottle, EgressThrottle, LayerKind, Throttle } from './throttle.ts';

/** What control says of one machine. */
export interface MachineLimits {
  readonly machine: string;
  readonly policy: string;
  readonly priority: Priority;
  /** Null: none of its own. */
  readonly own: RateTable | null;
  readonly ofPolicy: RateTable | null;
}

const { creditPartMs, creditPartBytesMin, creditAheadMs, sessionWindowBytesMin } = limits.processServer;
const isBulk = (kind: LayerKind): boolean => kind !== 'delta';

/** A link whose limit can be told anew. */
class Limited {
  table: RateTable | null = null;
  readonly link: PacedLink;

  constructor(clock: Clock, share: number) {
    this.link = new PacedLink({
      clock,
      rate: () => {
        const rate = this.table?.at(clock.wallMs()) ?? null;
        return rate === null ? null : rate * share;
      },
    });
  }
}

/** Links by name, those of which is told. */
class Links {
  readonly #byName = new Map<string, Limited>();
  readonly #make: () => Limited;

  constructor(make: () => Limited) {
    this.#make = make;
  }

  tell(tables: ReadonlyMap<string, RateTable>): void {
    for (const [name, limited] of this.#byName) {
      limited.table = tables.get(name) ?? null; // Who waits there goes on at once.
      if (limited.table === null) this.#byName.delete(name);
    }
    for (const [name, table] of tables) {
      const limited = this.#byName.get(name) ?? this.#make();
      limited.table = table;
      this.#byName.set(name, limited);
    }
  }

  of(name: string): PacedLink[] {
    const limited = this.#byName.get(name);
    return limited ? [limited.link] : [];
  }
}

export class LimitedThrottle implements Throttle {
  readonly #server: Limited;
  readonly #machines: Links;
  readonly #policies: Links;
  #told = new Map<string, MachineLimits>();

  /** @param options.share 1, or this process's part of what several on one port share. */
  constructor({ clock, share }: { readonly clock: Clock; readonly share: number }) {
    this.#server = new Limited(clock, share);
    this.#machines = new Links(() => new Limited(clock, 1));
    this.#policies = new Links(() => new Limited(clock, share));
  }

  /** The limit of the process server itself; null: none. */
  tellOwn(table: RateTable | null): void {
    this.#server.table = table;
  }

  /** Of all machines that have limits or a priority; of others there are none. */
  tell(machines: readonly MachineLimits[]): void {
    this.#told = new Map(machines.map((one) => [one.machine, one]));
    this.#machines.tell(new Map(machines.flatMap(({ machine, own }) => (own ? [[machine, own]] : []))));
    this.#policies.tell(new Map(machines.flatMap(({ policy, ofPolicy }) => (ofPolicy ? [[policy, ofPolicy]] : []))));
  }

  agent(machine: string, pass: (bytes: number) => void): AgentThrottle {
    const links = (): PacedLink[] => {
      const policy = this.#told.get(machine)?.policy;
      return [...this.#machines.of(machine), ...(policy === undefined ? [] : this.#policies.of(policy))];
    };
    return new PacedCredit({ machine, pass, links, priority: () => this.#priorityOf(machine) });
  }

  egress(machine: string): EgressThrottle {
    const abort = new AbortController();
    return {
      take: (bytes, kind) => {
        const turn = { key: machine, priority: this.#priorityOf(machine), bulk: isBulk(kind), bytes };
        return this.#server.link.take(turn, abort.signal);
      },
      end: (reason) => abort.abort(reason),
    };
  }

  #priorityOf(machine: string): Priority {
    return this.#told.get(machine)?.priority ?? 'normal';
  }
}

interface PacedCreditOptions {
  readonly machine: string;
  readonly pass: (bytes: number) => void;
  /** What limits the machine now, nearest first. */
  readonly links: () => readonly PacedLink[];
  readonly priority: () => Priority;
}

class PacedCredit implements AgentThrottle {
  readonly #options: PacedCreditOptions;
  readonly #abort = new AbortController();
  /** Offered and not passed on. */
  #held = 0;
  /** Passed on and not used. */
  #ahead = 0;
  /** Of `#ahead`: what is charged when it is used (1). */
  #uncharged = 0;
  #kind: LayerKind = 'delta';
  #giving = false;

  constructor(options: PacedCreditOptions) {
    this.#options = options;
  }

  get holds(): boolean {
    return this.#held > 0 && this.#ahead < limits.agent.batchPayloadBytes;
  }

  offer(bytes: number): void {
    this.#held += bytes;
    this.#give();
  }

  used(bytes: number, kind: LayerKind): void {
    this.#kind = kind;
    this.#ahead -= bytes;
    const charged = Math.min(bytes, this.#uncharged);
    this.#uncharged -= charged;
    if (charged > 0) for (const link of this.#options.links()) link.charge(charged);
    this.#give();
  }

  end(): void {
    this.#abort.abort(new Error('the session ended'));
  }

  #give(): void {
    if (this.#giving) return;
    this.#giving = true;
    // Rejected only when the session ended; nothing is given after it.
    this.#giveAll().catch(() => undefined);
  }

  /** Until nothing is held, or the agent has enough. Without limits: in this turn. */
  async #giveAll(): Promise<void> {
    while (this.#held > 0) {
      const { links, machine, priority, pass } = this.#options;
      const limiting = links();
      const rate = Math.min(...limiting.map((link) => link.rate ?? Infinity));
      const unlimited = rate === Infinity;
      const room = unlimited ? Infinity : Math.max(sessionWindowBytesMin, (rate * creditAheadMs) / 1000) - this.#ahead;
      if (room <= 0) {
        this.#uncharged = this.#ahead;
        break;
      }
      const part = unlimited ? this.#held : Math.max(creditPartBytesMin, (rate * creditPartMs) / 1000);
      const bytes = Math.ceil(Math.min(this.#held, room, part));
      const turn = { key: machine, priority: priority(), bulk: isBulk(this.#kind), bytes };
      if (!unlimited) for (const link of limiting) await link.take(turn, this.#abort.signal);
      this.#held -= bytes;
      this.#ahead += bytes;
      if (unlimited) this.#uncharged += bytes;
      pass(bytes);
    }
    this.#giving = false;
  }
}
