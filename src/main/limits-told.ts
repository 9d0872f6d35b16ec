/**
 * The limits of a process server, as control told them last: those of machines and policies, and its own. Where control says nothing of its own,
 * or did not answer since the start, that of its configuration holds.
 */
import type { ProcessServerConfig } from '../config.ts';
import type { ReportReply } from '../control/report-schemas.ts';
import type { Clock } from '../kit/clock.ts';
import { messageOf } from '../kit/problem.ts';
import { parseRateTable, type RateTable } from '../kit/rate-table.ts';
import type { LogFields, Logger } from '../observe/logger.ts';
import { LimitedThrottle, type MachineLimits } from '../process-server/limited-throttle.ts';

type Told = Pick<ReportReply, 'throttle' | 'ownThrottle'>;
type OfMachine = Told['throttle'][number];

export class LimitsTold {
  readonly throttle: LimitedThrottle;
  readonly #logger: Logger;
  /** Its own as it is configured. */
  readonly #configured: RateTable | null;
  #machines = '[]';
  #own = 'null';

  /** @param share 1, or this process's part of what several on one port share. */
  constructor(clock: Clock, config: ProcessServerConfig, logger: Logger, share = 1) {
    this.#logger = logger;
    this.throttle = new LimitedThrottle({ clock, share });
    const { throttle, throttleTimeZone } = config;
    this.#configured = throttle === undefined ? null : parseRateTable(throttle, throttleTimeZone);
    this.throttle.tellOwn(this.#configured);
  }

  /** Limits stay as they are while control is away. */
  tell({ throttle, ownThrottle }: Told): void {
    const [machines, own] = [JSON.stringify(throttle), JSON.stringify(ownThrottle)];
    if (machines !== this.#machines) {
      this.#machines = machines;
      this.throttle.tell(throttle.map((one) => this.#limitsOf(one)));
      this.#logger.info({ machines: throttle.length }, 'limits and priorities of machines changed');
    }
    if (own !== this.#own) {
      this.#own = own;
      const table = ownThrottle && this.#understood(ownThrottle.throttle, ownThrottle.timeZone, {});
      this.throttle.tellOwn(table ?? this.#configured);
      const rates = (table ?? this.#configured)?.text ?? 'unlimited';
      this.#logger.info({ rates, setBy: table ? 'control' : 'configuration' }, 'its own limit changed');
    }
  }

  #limitsOf({ machine, policy, own, ofPolicy, timeZone, priority }: OfMachine): MachineLimits {
    const tableOf = (text: string | null): RateTable | null =>
      text === null ? null : this.#understood(text, timeZone, { machine, policy });
    return { machine, policy, priority, own: tableOf(own), ofPolicy: tableOf(ofPolicy) };
  }

  /** Null: of a control API of another version. Data keeps flowing. */
  #understood(text: string, timeZone: string, whose: LogFields): RateTable | null {
    try {
      return parseRateTable(text, timeZone);
    } catch (error) {
      this.#logger.warn({ ...whose, reason: messageOf(error) }, 'a limit is not understood here, and not kept to');
      return null;
    }
  }
}
