/** How data flows through the agent, for whoever wants to know what holds it up: words shared by the agent and its report, and what is measured. */
import type { CaptureDisk } from '../capture/contract.ts';
import { Recent, type Growth } from '../kit/recent.ts';
import { limits } from '../limits.ts';
import type { AgentCounters } from './counters.ts';
import type { FlightLog } from './flight-log.ts';

/** Bytes per second, a mean over the last minute and one over the last quarter of an hour. Null: not known. */
export interface Rates {
  readonly minute: number | null;
  readonly quarterHour: number | null;
}

/** When a point passed each stage, milliseconds since the Unix epoch, never falling; null: not yet. */
export interface PointStages {
  readonly cutMs: number;
  /** POINT was handed to the connection, behind all its batches. */
  readonly sentMs: number | null;
  /** All its batches were said to be durable at the target. */
  readonly durableMs: number | null;
  readonly committedMs: number | null;
}

export interface AgentFlow {
  /** POINTs sent and not answered. */
  readonly pointsInFlight: number;
  /** Of the newest point that was committed in this run. */
  readonly cycle: PointStages | null;
  /** Of the oldest point in flight. */
  readonly open: PointStages | null;
  /** What writers change: pages that became dirty. Disks captured by comparison do not tell; null: there are only such. */
  readonly churn: Rates | null;
  /** Payload that became durable, per second of the time in which some was on its way; null: none was. */
  readonly drain: Rates;
  /** Of the last `windowMs`: waited for reads of the disks, hashed, waited for credit and socket, and at least one POINT waited for its answer. */
  readonly waits: {
    readonly windowMs: number;
    readonly readMs: number;
    readonly hashMs: number;
    readonly sendMs: number;
    readonly commitMs: number;
  };
  /** The next attempt after a failure: within the first minute, by the table of longer pauses, or after a refusal that is asked about rarely. */
  readonly retry: { readonly atMs: number; readonly class: 'quick' | 'slow' | 'critical' } | null;
  /** When the next cut is due; null: one is being made, or none can be. */
  readonly nextCutMs: number | null;
  /** When an app-consistent point is due; null: only when asked for. */
  readonly nextAppPointMs: number | null;
}

interface Changing {
  readonly capture: Pick<CaptureDisk, 'tracking' | 'changedBytes'>;
}

const { flowBucketMs: bucketMs, flowMinuteMs, flowQuarterHourMs, flowWaitsMs } = limits.agent;
const stages = ['read', 'hash', 'send', 'commit'] as const;

/** Takes the totals whenever somebody looks, so it needs no timer and nothing on the hot path. */
export class FlowMeter {
  readonly #disks: readonly Changing[];
  readonly #flight: Pick<FlightLog, 'durableBytes' | 'busyMs'>;
  readonly #counters: AgentCounters;
  readonly #changed = new Recent({ bucketMs, spanMs: flowQuarterHourMs });
  readonly #durable = new Recent({ bucketMs, spanMs: flowQuarterHourMs });
  readonly #busy = new Recent({ bucketMs, spanMs: flowQuarterHourMs });
  readonly #stages = new Map(stages.map((stage) => [stage, new Recent({ bucketMs, spanMs: flowWaitsMs })]));

  constructor(disks: readonly Changing[], flight: Pick<FlightLog, 'durableBytes' | 'busyMs'>, counters: AgentCounters) {
    this.#disks = disks;
    this.#flight = flight;
    this.#counters = counters;
  }

  /** @param nowMs monotonic. */
  measured(nowMs: number): Pick<AgentFlow, 'churn' | 'drain' | 'waits'> {
    const tracked = this.#disks.filter(({ capture }) => capture.tracking !== 'scan');
    this.#changed.note(
      nowMs,
      tracked.reduce((sum, { capture }) => sum + capture.changedBytes, 0),
    );
    this.#durable.note(nowMs, this.#flight.durableBytes);
    this.#busy.note(nowMs, this.#flight.busyMs);
    for (const [stage, recent] of this.#stages) recent.note(nowMs, this.#counters.stageMs[stage]);
    const waited = (stage: (typeof stages)[number]) => this.#stages.get(stage)?.over(flowWaitsMs).amount ?? 0;
    return {
      churn: tracked.length === 0 ? null : rates((spanMs) => perSecond(this.#changed.over(spanMs))),
      drain: rates((spanMs) =>
        perSecond({ amount: this.#durable.over(spanMs).amount, ms: this.#busy.over(spanMs).amount }),
      ),
      waits: {
        windowMs: this.#busy.over(flowWaitsMs).ms,
        readMs: waited('read'),
        hashMs: waited('hash'),
        sendMs: waited('send'),
        commitMs: waited('commit'),
      },
    };
  }
}

function rates(over: (spanMs: number) => number | null): Rates {
  return { minute: over(flowMinuteMs), quarterHour: over(flowQuarterHourMs) };
}

function perSecond({ amount, ms }: Growth): number | null {
  return ms === 0 ? null : (amount * 1000) / ms;
}
