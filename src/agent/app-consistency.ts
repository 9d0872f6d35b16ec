/**
 * App-consistent points: pre hook → freeze → cut → thaw → post hook, where hooks and guest agent are each there or not.
 *
 * What stops a machine must never outlive us. So the thaw and the post hook are treated as a **debt**: written down durably (`frozen.json`
 * in the agent's directory) before the pre hook is started and the guest is asked, struck out when the guest said it is thawed and the post hook
 * exited with 0. One loop pays, with growing pauses, until it is paid; it begins the moment the cut was made, or could not be; when the
 * agent stops it gets `settleOnStopMs`; what is unpaid then, or after a kill, is found and paid by the next start. The debt is written
 * without knowing how far the attempt will come, so a start may thaw a guest that was not frozen yet, which does nothing.
 *
 * Invariants:
 *  1. The cut is made exactly once per attempt, whatever the freeze did: a point is always better than none.
 *  2. A freeze lasts from its answer to the end of the cut; nothing is sent meanwhile, no network but the guest agent's socket is waited for.
 *  3. An attempt has evidence only if all that is configured worked and as many file systems were thawed as had been frozen: fewer
 *     means that somebody thawed some of them earlier, perhaps before the cut (qapi-schema.json, guest-fsfreeze-thaw).
 *  4. While a debt is unpaid nothing new is frozen.
 */
import * as path from 'node:path';
import type { CutAll, CutReport } from '../capture/contract.ts';
import { Backoff } from '../kit/backoff.ts';
import type { Clock } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import type { GuestAgent, Thaw } from './guest-agent.ts';
import type { Hook } from './hooks.ts';

export interface AppConsistencyOptions {
  readonly pre: Hook | null;
  readonly post: Hook | null;
  readonly guestAgent: GuestAgent | null;
  /** The agent's directory. */
  readonly directory: string;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** One try at an app-consistent point. Both null until its cut was made. */
export interface AppAttempt {
  /** Makes the cut with everything quiet, or without if that fails. */
  readonly cutAll: CutAll;
  /** Why the point may say `app`. */
  readonly evidence: string | null;
  /** Why it may not. */
  readonly failure: string | null;
}

interface Debt {
  thaw: boolean;
  post: boolean;
  /** Why it is not paid yet. */
  reason: string;
}

type Quiet =
  | { readonly ok: true; readonly did: string[]; readonly fileSystems: number }
  | { readonly ok: false; readonly reason: string };

export class AppConsistency {
  readonly #options: AppConsistencyOptions;
  /** Ends a freeze or pre hook under way, and the pauses between payments. */
  readonly #stopping = new AbortController();
  /** Ends a payment under way. */
  readonly #giveUp = new AbortController();
  #debt: Debt | null = null;
  #paying: Promise<void> = Promise.resolve();
  /** The try to pay that is under way, or was last. */
  #payment: Promise<unknown> = Promise.resolve();

  private constructor(options: AppConsistencyOptions) {
    this.#options = options;
  }

  /** Begins to pay what an earlier run left behind; does not wait for it, because a guest may start only after this agent. */
  static async open(options: AppConsistencyOptions): Promise<AppConsistency> {
    const opened = new AppConsistency(options);
    if (await options.files.exists(opened.#file)) {
      const { logger, guestAgent, post } = options;
      if (!guestAgent && !post) {
        logger.error({}, 'an earlier run may have left the machine frozen, and nothing is configured to thaw it by');
        return opened;
      }
      logger.warn({}, 'an earlier run may have left the machine frozen: it is thawed, and the post hook run, now');
      opened.#debt = { thaw: true, post: true, reason: 'an earlier run ended before its thaw' };
      void opened.#pay(opened.#debt);
    }
    return opened;
  }

  /** Why the machine may be frozen, or its post hook is missing, although nothing is being cut; null when it is not. */
  get owed(): string | null {
    return this.#debt === null || this.#debt.reason === '' ? null : this.#debt.reason;
  }

  attempt(cutAll: CutAll): AppAttempt {
    const attempt: { cutAll: CutAll; evidence: string | null; failure: string | null } = {
      cutAll: (disks, drainMs) => this.#quietCut(() => cutAll(disks, drainMs), attempt),
      evidence: null,
      failure: null,
    };
    return attempt;
  }

  /** Nothing is frozen any more from now on; what is owed is paid, in bounded time. Idempotent. */
  stop(): void {
    if (this.#stopping.signal.aborted) return;
    this.#stopping.abort();
    this.#options.clock.after(limits.agent.settleOnStopMs, () => {
      this.#giveUp.abort();
    });
  }

  /** After `stop`, and after the last attempt ended: resolves when the debt is paid or given up for this run. */
  async close(): Promise<void> {
    this.stop();
    await this.#paying;
    if (this.#debt !== null)
      this.#options.logger.error(
        { reason: this.#debt.reason },
        'the machine may be frozen still: thaw it by its guest agent (virsh domfsthaw) and run the post hook, or start the agent again',
      );
  }

  get #file(): string {
    return path.join(this.#options.directory, 'frozen.json');
  }

  async #quietCut(
    cut: () => Promise<CutReport | null>,
    attempt: { evidence: string | null; failure: string | null },
  ): Promise<CutReport | null> {
    const { clock } = this.#options;
    const debt: Debt = { thaw: false, post: false, reason: '' };
    const quiet = await this.#makeQuiet(debt);
    if (!quiet.ok) {
      attempt.failure = quiet.reason;
      if (this.#debt === debt) void this.#pay(debt);
      return cut();
    }
    const frozenMs = clock.monotonicMs();
    const cutting = cut();
    // However it ends, and before anything is made of it.
    await cutting.catch(() => undefined);
    const thaw = await this.#pay(debt);
    const heldMs = Math.round(clock.monotonicMs() - frozenMs);
    if (thaw?.kind === 'unanswered') attempt.failure = `no answer to the thaw: ${thaw.reason}`;
    else if (thaw && thaw.fileSystems < quiet.fileSystems)
      attempt.failure = `${thaw.fileSystems} of ${countOf(quiet.fileSystems)} were thawed: somebody thawed the others earlier`;
    else
      attempt.evidence = [...quiet.did, ...(thaw ? [`thawed ${thaw.fileSystems} after ${heldMs} ms`] : [])].join(', ');
    return cutting;
  }

  /** Notes in `debt` what has to be undone, as far as it came. */
  async #makeQuiet(debt: Debt): Promise<Quiet> {
    const { files, clock, pre, post, guestAgent } = this.#options;
    const { signal } = this.#stopping;
    if (!pre && !guestAgent) return failed('neither agent.preHook nor agent.guestAgentSocket is configured');
    // The post hook of the point before may still run.
    await this.#payment;
    if (this.#debt !== null) return failed(`what was frozen before is not undone yet: ${this.#debt.reason}`);
    if (signal.aborted) return failed('the agent is stopping');
    try {
      const text = `${JSON.stringify({ format: 1, atMs: clock.wallMs() })}\n`;
      await files.replaceFile(this.#file, Buffer.from(text));
    } catch (error) {
      return failed(`${this.#file} can not be written, so nothing was frozen: ${messageOf(error)}`);
    }
    this.#debt = debt;
    // From here on there is something to pay, if only the file.
    const did: string[] = [];
    debt.post = post !== null;
    if (pre) {
      const run = await pre.run(signal);
      if (!run.ok) return failed(run.text);
      did.push(run.text);
    }
    if (!guestAgent) return { ok: true, did, fileSystems: 0 };
    const freeze = await guestAgent.freeze(signal);
    debt.thaw = freeze.kind !== 'not-frozen';
    if (freeze.kind !== 'frozen') return failed(freeze.reason);
    const { fileSystems } = freeze;
    return { ok: true, did: [...did, `guest agent froze ${countOf(fileSystems)}`], fileSystems };
  }

  /** Begins to pay; resolves with what the first thaw came to, or null if none was owed. */
  #pay(debt: Debt): Promise<Thaw | null> {
    const first = Promise.withResolvers<Thaw | null>();
    this.#paying = this.#payAll(debt, first.resolve);
    return first.promise;
  }

  async #payAll(debt: Debt, thawed: (thaw: Thaw | null) => void): Promise<void> {
    const { clock, random, logger } = this.#options;
    const { settleBaseMs, settleMaxMs } = limits.agent;
    const backoff = new Backoff({ baseMs: settleBaseMs, maxMs: settleMaxMs, random });
    for (let attempt = 1; ; attempt += 1) {
      const payment = this.#payOnce(debt, thawed);
      this.#payment = payment;
      const reasons = await payment;
      if (reasons.length === 0) break;
      debt.reason = reasons.join('; ');
      if (attempt === 1) logger.error({ reason: debt.reason }, 'the machine may be frozen still; trying again');
      if (this.#stopping.signal.aborted) return;
      await clock.sleep(backoff.nextMs(), this.#stopping.signal).catch(() => undefined);
    }
    if (debt.reason !== '') logger.info({}, 'what was frozen is undone');
    this.#debt = null;
  }

  /** Why something is left, or nothing. Never rejects. */
  async #payOnce(debt: Debt, thawed: (thaw: Thaw | null) => void): Promise<string[]> {
    const { files, guestAgent, post } = this.#options;
    const { signal } = this.#giveUp;
    const thaw = debt.thaw && guestAgent ? await guestAgent.thaw(signal) : null;
    thawed(thaw);
    debt.thaw = thaw?.kind === 'unanswered';
    const run = debt.post && post ? await post.run(signal) : null;
    debt.post = run !== null && !run.ok;
    const reasons = [...(thaw?.kind === 'unanswered' ? [thaw.reason] : []), ...(run?.ok === false ? [run.text] : [])];
    if (reasons.length > 0) return reasons;
    try {
      await files.remove(this.#file);
      return [];
    } catch (error) {
      return [`${this.#file} can not be removed: ${messageOf(error)}`];
    }
  }
}

function failed(reason: string): Quiet {
  return { ok: false, reason };
}

function countOf(fileSystems: number): string {
  return `${fileSystems} file system${fileSystems === 1 ? '' : 's'}`;
}
