/**
 * A role's link to the control API: policies in, reports out. Optional, and never in the way: without an address, or while control is down,
 * data keeps flowing by the last policy known and the role's own settings.
 */
import type { RoleCommon } from '../config.ts';
import { ControlClient } from '../control/client.ts';
import type { Report, ReportReply } from '../control/report-schemas.ts';
import type { AgentDuties } from '../control/schemas.ts';
import type { Clock, Timer } from '../kit/clock.ts';
import { isProblem, messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Credentials } from '../transport/credentials.ts';
import type { Parts } from './parts.ts';

/** What control wants of an agent. */
export interface Duties {
  /** Null: control never said. */
  readonly told: AgentDuties | null;
  /** Control answered that protection of the machine was disabled; what was told before is what it was. */
  readonly unprotected: boolean;
}

const nothingTold: Duties = { told: null, unprotected: false };

export interface ControlLink {
  /** Asks once, then keeps asking; the function it gives tells the newest answer. */
  duties(): Promise<() => Duties>;
  /** Sends what `make` gives, again and again, one at a time; at once if `answered` says that the answer brought news to report. */
  reportEvery(make: () => Report | Promise<Report>, answered?: (answer: ReportReply) => boolean): void;
  close(): void;
}

const withoutControl: ControlLink = {
  duties: () => Promise.resolve(() => nothingTold),
  reportEvery: () => undefined,
  close: () => undefined,
};

class RealLink implements ControlLink {
  readonly #client: ControlClient;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #timers: Timer[] = [];
  #reachable = true;

  constructor(client: ControlClient, clock: Clock, logger: Logger) {
    this.#client = client;
    this.#clock = clock;
    this.#logger = logger;
  }

  async duties(): Promise<() => Duties> {
    let newest = nothingTold;
    const ask = async (): Promise<void> => {
      const answer = await this.#attempt('asking for the policy', async (): Promise<Duties> => {
        try {
          return { told: (await this.#client.call('getAgentConfig')).value, unprotected: false };
        } catch (error) {
          if (isProblem(error) && error.code === 'unprotected') return { ...newest, unprotected: true };
          throw error;
        }
      });
      if (answer) newest = answer;
    };
    await ask();
    this.#every(limits.control.policyPollMs, ask);
    return () => newest;
  }

  reportEvery(make: () => Report | Promise<Report>, answered?: (answer: ReportReply) => boolean): void {
    const once = () => this.#attempt('reporting', async () => this.#client.call('report', { body: await make() }));
    const send = async (): Promise<void> => {
      const answer = await once();
      if (answer && answered?.(answer.value) === true) await once();
    };
    void send();
    this.#every(limits.control.reportEveryMs, send);
  }

  close(): void {
    for (const timer of this.#timers) timer.cancel();
    this.#client.close();
  }

  /** Never rejects. Logs only when it changes, so that a control that is away for days does not fill the log. */
  async #attempt<T>(what: string, call: () => Promise<T>): Promise<T | null> {
    try {
      const value = await call();
      if (!this.#reachable) this.#logger.info({}, 'control can be reached again');
      this.#reachable = true;
      return value;
    } catch (error) {
      if (this.#reachable)
        this.#logger.warn({ reason: messageOf(error) }, `control: ${what} failed; data keeps flowing`);
      this.#reachable = false;
      return null;
    }
  }

  /** One run at a time; `run` never rejects. */
  #every(ms: number, run: () => Promise<void>): void {
    let busy = false;
    const timer = this.#clock.every(ms, () => {
      if (busy) return;
      busy = true;
      void run().then(() => {
        busy = false;
      });
    });
    this.#timers.push(timer);
  }
}

export function controlLink(parts: Parts, common: RoleCommon, credentials: Credentials, logger: Logger): ControlLink {
  if (common.controlUrl === undefined) return withoutControl;
  const { clock } = parts;
  const client = new ControlClient({ url: common.controlUrl, access: { kind: 'role', credentials }, clock });
  return new RealLink(client, clock, logger);
}
