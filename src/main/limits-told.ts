/** The limits of a process server: its own from its configuration, those of machines and policies as control told them last. */
import type { ProcessServerConfig } from '../config.ts';
import type { ReportReply } from '../control/report-schemas.ts';
import type { Clock } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import { parseRateTable, type RateTable } from '../kit/rate-table.ts';
import type { Logger } from '../observe/logger.ts';
import { LimitedThrottle, type MachineLimits } from '../process-server/limited-throttle.ts';

type Told = ReportReply['throttle'];

export class LimitsTold {
  readonly throttle: LimitedThrottle;
  readonly #logger: Logger;
  #newest = '[]';

  /** @param share 1, or this process's part of what several on one port share. */
  constructor(clock: Clock, config: ProcessServerConfig, logger: Logger, share = 1) {
    this.#logger = logger;
    this.throttle = new LimitedThrottle({ clock, share });
    const { throttle, throttleTimeZone } = config;
    if (throttle !== undefined) this.throttle.tellOwn(parseRateTable(throttle, throttleTimeZone));
  }

  /** Limits stay as they are while control is away. */
  tell(told: Told): void {
    const text = JSON.stringify(told);
    if (text === this.#newest) return;
    this.#newest = text;
    this.throttle.tell(told.map((one) => this.#limitsOf(one)));
    this.#logger.info({ machines: told.length }, 'limits and priorities of machines changed');
  }

  #limitsOf({ machine, policy, own, ofPolicy, timeZone, priority }: Told[number]): MachineLimits {
    const tableOf = (text: string | null): RateTable | null => {
      if (text === null) return null;
      try {
        return parseRateTable(text, timeZone);
      } catch (error) {
        // Of a control API of another version: data keeps flowing.
        this.#logger.warn(
          { machine, policy, reason: messageOf(error) },
          'a limit is not understood here, and not kept to',
        );
        return null;
      }
    };
    return { machine, policy, priority, own: tableOf(own), ofPolicy: tableOf(ofPolicy) };
  }
}
