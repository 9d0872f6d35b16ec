/**
 * A role's link to the control API: policies in, reports out. Optional, and never in the way: without an address, or while control is down,
 * data keeps flowing by the last policy known and the role's own settings.
 */
import type { RoleCommon } from '../config.ts';
import { ControlClient } from '../control/client.ts';
import type { Policy, Report } from '../control/schemas.ts';
import { messageOf } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Credentials } from '../transport/credentials.ts';
import type { Parts } from './parts.ts';

export interface ReportAnswer {
  readonly machines: readonly { readonly name: string; readonly newestPoint: number | null }[];
}

export interface ControlLink {
  /** Asks once, then keeps asking; the function it gives tells the newest policy known. */
  policy(): Promise<() => Policy | null>;
  /** Sends one report; null when control could not be reached. */
  report(report: Report): Promise<ReportAnswer | null>;
  /** Sends what `make` gives, again and again, one at a time. */
  reportEvery(make: () => Report | Promise<Report>, answered?: (answer: ReportAnswer) => void): void;
  close(): void;
}

const withoutControl: ControlLink = {
  policy: () => Promise.resolve(() => null),
  report: () => Promise.resolve(null),
  reportEvery: () => undefined,
  close: () => undefined,
};

export async function controlLink(
  parts: Parts,
  common: RoleCommon,
  credentials: Credentials,
  logger: Logger,
): Promise<ControlLink> {
  await Promise.resolve();
  if (common.controlUrl === undefined) return withoutControl;
  const { clock } = parts;
  const client = new ControlClient({ url: common.controlUrl, access: { kind: 'role', credentials }, clock });
  const timers: { cancel(): void }[] = [];
  let reachable = true;
  /** Logs only when it changes, so that a control that is away for days does not fill the log. */
  const attempt = async <T>(what: string, call: () => Promise<T>): Promise<T | null> => {
    try {
      const value = await call();
      if (!reachable) logger.info({}, 'control can be reached again');
      reachable = true;
      return value;
    } catch (error) {
      if (reachable) logger.warn({ reason: messageOf(error) }, `control: ${what} failed; data keeps flowing`);
      reachable = false;
      return null;
    }
  };
  const everyFreely = (ms: number, run: () => Promise<void>): void => {
    let busy = false;
    timers.push(
      clock.every(ms, () => {
        if (busy) return;
        busy = true;
        void run().finally(() => {
          busy = false;
        });
      }),
    );
  };
  const link: ControlLink = {
    async policy() {
      let newest: Policy | null = null;
      const ask = async (): Promise<void> => {
        const answer = await attempt('asking for the policy', () => client.call('getAgentConfig'));
        if (answer) newest = answer.value.policy;
      };
      await ask();
      everyFreely(limits.control.policyPollMs, ask);
      return () => newest;
    },
    report: (report) => attempt('reporting', async () => (await client.call('report', { body: report })).value),
    reportEvery(make, answered) {
      const send = async (): Promise<void> => {
        const answer = await link.report(await make());
        if (answer) answered?.(answer);
      };
      void send().catch(() => undefined);
      everyFreely(limits.control.reportEveryMs, send);
    },
    close() {
      for (const timer of timers) timer.cancel();
      client.close();
    },
  };
  return link;
}
