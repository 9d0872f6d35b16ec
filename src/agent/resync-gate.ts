/** Whether a resync may read and send now: the window of the policy, or the word of an operator that it need not wait. */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { ResyncWindow } from './resync.ts';

export interface ResyncGateOptions {
  readonly window: () => ResyncWindow;
  readonly clock: Clock;
  /** Resolves after so many milliseconds, or earlier when somebody wants something or the session ended. */
  readonly pause: (ms: number) => Promise<void>;
}

export class ResyncGate {
  /** What is due does not wait for the window. */
  override = false;
  readonly #options: ResyncGateOptions;

  constructor(options: ResyncGateOptions) {
    this.#options = options;
  }

  /** When it opens, milliseconds since the Unix epoch; null: it is open. */
  opensAtMs(): number | null {
    if (this.override) return null;
    const window = this.#options.window();
    return window.open ? null : window.opensAtMs;
  }

  /** Resolves when it may have opened; looks sometimes whether the window itself was changed. */
  async wait(opensAtMs: number): Promise<void> {
    const { clock, pause } = this.#options;
    await pause(Math.min(Math.max(opensAtMs - clock.wallMs(), 0), limits.agent.resyncWindowPollMs));
  }
}
