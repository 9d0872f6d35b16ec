/**
 * To which process server an agent goes. When to try again is the agent's to say.
 *
 * The order is control's, which knows who has the machine; then what is configured. One that failed comes after the others for a while: one that
 * did not answer for long, because trying it costs that time again; one that refuses, only a moment, because who has the machine changes
 * within seconds. Where all of them failed, it is the one whose time is over first.
 */
import type { Address } from '../config/tables.ts';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { isProblem, type Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { formatAddress, parseAddress } from '../transport/address.ts';
import type { Closed, Connection } from '../transport/connection.ts';

const { avoidUnreachableMs, avoidSilentMs, avoidRefusingMs, serversMax } = limits.leases;
const defaultPort = 9443;
/** What a process server says of itself, not of the machine: another may do better. Who is `draining` waits here: nobody else has its spool. */
const refusals: ReadonlySet<string> = new Set(
  'not-owner stale-epoch shutting-down overloaded unreachable full internal'.split(' '),
);

/** None where it is no address here: one process server that says nonsense of itself must not keep an agent from all others. */
function understood(text: string): Address[] {
  try {
    return [parseAddress(text, defaultPort)];
  } catch {
    return [];
  }
}

export class ProcessServerChoice {
  readonly #configured: readonly Address[];
  readonly #offered: () => readonly string[];
  readonly #clock: Clock;
  #last: Address | null = null;
  /** By address as text: until when others come first. */
  readonly #avoidedMs = new Map<string, number>();

  /** @param offered by control, the best first; empty: it has no say. */
  constructor(configured: readonly Address[], offered: () => readonly string[], clock: Clock) {
    this.#configured = configured;
    this.#offered = offered;
    this.#clock = clock;
  }

  /** One attempt: with the address it should go to now, and where that can not be reached, at once with the next that did not fail lately. */
  async connect(attempt: (address: Address) => Promise<Connection>): Promise<Connection> {
    for (let tried = 1; ; tried += 1) {
      const address = (this.#last = this.#inOrder()[0] ?? this.#configured[0] ?? null);
      invariant(address, 'an agent has a process server');
      try {
        const connection = await attempt(address);
        void connection.closed.then((closed) => this.#closed(address, closed));
        return connection;
      } catch (error) {
        const silent = isProblem(error) && error.code === 'timeout';
        this.#avoid(address, silent ? avoidSilentMs : avoidUnreachableMs);
        const next = this.#inOrder()[0];
        if (silent || tried >= serversMax || !next || this.#untilMs(next) > this.#clock.monotonicMs()) throw error;
      }
    }
  }

  /** Those that did not fail lately first; each part as control says, then as configured. */
  #inOrder(): Address[] {
    const offered = this.#offered().flatMap(understood);
    const all = [...offered, ...this.#configured].slice(0, serversMax);
    const nowMs = this.#clock.monotonicMs();
    return all.sort((one, other) => Math.max(nowMs, this.#untilMs(one)) - Math.max(nowMs, this.#untilMs(other)));
  }

  /** When it stops to come after the others. */
  #untilMs(address: Address): number {
    return this.#avoidedMs.get(formatAddress(address)) ?? 0;
  }

  /** The session with the address tried last is over. */
  ended({ code }: Problem): void {
    if (this.#last === null) return;
    if (code === 'timeout') this.#avoid(this.#last, avoidSilentMs);
    else if (refusals.has(code)) this.#avoid(this.#last, avoidRefusingMs);
  }

  #closed(address: Address, { by }: Closed): void {
    if (by === 'deadline') this.#avoid(address, avoidSilentMs);
    else if (by !== 'us') this.#avoid(address, avoidUnreachableMs);
  }

  #avoid(address: Address, ms: number): void {
    const nowMs = this.#clock.monotonicMs();
    for (const [known, untilMs] of this.#avoidedMs) if (untilMs <= nowMs) this.#avoidedMs.delete(known);
    const text = formatAddress(address);
    this.#avoidedMs.set(text, Math.max(this.#avoidedMs.get(text) ?? 0, nowMs + ms));
  }
}
