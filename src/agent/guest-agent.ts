/**
 * Freezing and thawing the file systems of a guest through its QEMU guest agent.
 *
 * The guest agent does one command at a time, in the order in which they were sent, whatever connection they came by; a freeze that hangs (the
 * guest is writing out its caches) is answered, and done, when it is done, even if nobody waits for it any more. Therefore:
 *  1. A freeze that was sent and not answered, or answered with anything but an error, may be or become a frozen guest: `maybe`. Only a
 *     guest that was never asked, or that refused and says it is thawed, is `not-frozen` (a refused freeze thaws what it had frozen).
 *  2. A thaw goes out behind the sync without waiting for it: in the guest it then stands behind the freeze, and takes effect even if this agent
 *     is gone by the time the guest comes to it. It is believed when it was answered and the guest does not say that it is frozen.
 *  3. A guest that is frozen before it is asked was frozen by somebody else: it is left alone.
 *  4. Both end by their deadline; a command that was not answered takes its channel with it.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { GuestChannel, type GuestCommand } from './guest-channel.ts';

export interface GuestAgentOptions {
  /** Unix socket of the character device that is the guest agent's port. */
  readonly socket: string;
  /** For each answer; the first on a channel takes the sync with it. */
  readonly timeoutMs: number;
  readonly clock: Clock;
  readonly random: Random;
}

export type Freeze =
  | { readonly kind: 'frozen'; readonly fileSystems: number }
  | { readonly kind: 'maybe'; readonly reason: string }
  | { readonly kind: 'not-frozen'; readonly reason: string };

export type Thaw =
  | { readonly kind: 'thawed'; readonly fileSystems: number }
  /** It may be frozen still. */
  | { readonly kind: 'unanswered'; readonly reason: string };

export class GuestAgent {
  readonly #options: GuestAgentOptions;
  /** Lives from a freeze to its thaw. */
  #channel: GuestChannel | null = null;

  constructor(options: GuestAgentOptions) {
    this.#options = options;
  }

  /** Never rejects. Ends early when `signal` aborts. Anything but `not-frozen` is to be followed by a thaw. */
  async freeze(signal: AbortSignal): Promise<Freeze> {
    const freeze = await this.#freeze(signal);
    if (freeze.kind === 'not-frozen') this.#leave();
    return freeze;
  }

  async #freeze(signal: AbortSignal): Promise<Freeze> {
    try {
      const status = await this.#ask(signal, 'guest-fsfreeze-status');
      if (status !== 'thawed')
        return { kind: 'not-frozen', reason: `guest agent: the guest is ${String(status)} by somebody else` };
    } catch (error) {
      return { kind: 'not-frozen', reason: `guest agent: ${messageOf(error)}` };
    }
    try {
      const fileSystems = await this.#ask(signal, 'guest-fsfreeze-freeze');
      if (typeof fileSystems === 'number' && fileSystems > 0) return { kind: 'frozen', fileSystems };
      return { kind: 'maybe', reason: `guest agent: froze ${JSON.stringify(fileSystems)} file systems` };
    } catch (error) {
      const reason = `guest agent: ${messageOf(error)}`;
      return { kind: isRefusal(error) && (await this.#saysThawed(signal)) ? 'not-frozen' : 'maybe', reason };
    }
  }

  /** One attempt. Never rejects. */
  async thaw(signal: AbortSignal): Promise<Thaw> {
    try {
      return await this.#during(signal, async (channel) => {
        // Both are on their way before either answer.
        const thawing = channel.call('guest-fsfreeze-thaw');
        const asking = channel.call('guest-fsfreeze-status');
        const [thaw, status] = await Promise.allSettled([thawing, asking]);
        const fileSystems = thaw.status === 'fulfilled' && typeof thaw.value === 'number' ? thaw.value : null;
        if (status.status === 'fulfilled' && status.value === 'thawed')
          return { kind: 'thawed', fileSystems: fileSystems ?? 0 };
        if (fileSystems !== null && status.status === 'rejected' && isRefusal(status.reason))
          return { kind: 'thawed', fileSystems };
        if (thaw.status === 'rejected') throw thaw.reason;
        throw new Problem('guest-agent-refused', 'the guest is still frozen after a thaw', { retryable: true });
      });
    } catch (error) {
      return { kind: 'unanswered', reason: `guest agent: ${messageOf(error)}` };
    } finally {
      this.#leave();
    }
  }

  #leave(): void {
    this.#channel?.end(new Problem('closed', 'the guest agent is not needed any more'));
    this.#channel = null;
  }

  /** Whether the guest says so, or is not able to say: one that refuses to tell its state was refused to change it, too. */
  async #saysThawed(signal: AbortSignal): Promise<boolean> {
    try {
      return (await this.#ask(signal, 'guest-fsfreeze-status')) === 'thawed';
    } catch (error) {
      return isRefusal(error);
    }
  }

  #ask(signal: AbortSignal, command: GuestCommand): Promise<unknown> {
    return this.#during(signal, (channel) => channel.call(command));
  }

  /** Runs `talk` on the present channel, or a new one, which ends when the deadline passes or `signal` aborts. */
  async #during<T>(signal: AbortSignal, talk: (channel: GuestChannel) => Promise<T>): Promise<T> {
    const { clock, random, socket, timeoutMs } = this.#options;
    const channel = this.#channel && !this.#channel.ended ? this.#channel : new GuestChannel(socket, random);
    this.#channel = channel;
    const stopped = (): void => {
      channel.end(new Problem('shutting-down', 'the agent is stopping', { retryable: true }));
    };
    const timer = clock.after(timeoutMs, () => {
      const remedy = 'is it installed and running in the guest, and is no other program connected to the socket?';
      channel.end(
        new Problem('timeout', `no answer on ${socket} within ${timeoutMs / 1000} s (${remedy})`, { retryable: true }),
      );
    });
    signal.addEventListener('abort', stopped);
    if (signal.aborted) stopped();
    try {
      return await talk(channel);
    } finally {
      timer.cancel();
      signal.removeEventListener('abort', stopped);
    }
  }
}

function isRefusal(error: unknown): boolean {
  return isProblem(error) && error.code === 'guest-agent-refused';
}
