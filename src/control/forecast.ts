/**
 * When the RPO target will be breached at this churn and drain rate. The pipe is taken as a queue that holds `behind` bytes, is fed by `churn` and
 * emptied by `drain` bytes per second, in order. So what changes `t` seconds from now is at the target at
 *
 *     t + (behind + (churn − drain) · t) / drain
 *
 * and the newest committed cut, now `age` old, grows older until the next one is there, `behind / drain` from now at the latest:
 *
 *  1. With `age + behind / drain > target` the target is breached before that, in `target − age`.
 *  2. Else with `churn > drain` the age at `t` is `t · (1 − drain / churn) + behind / churn`, and up to one interval more between two cuts; it passes the target at
 *     `(churn · (target − interval) − behind) / (churn − drain)`.
 *  3. Else it holds.
 *
 * While the pipe is emptied within an interval nothing piles up, and what little there is to send says nothing about what the pipe could carry: no breach is
 * foreseen then. Rates are means over a minute, so the figure follows what happens; the *warning* does not flap: it is raised after a breach was foreseen for
 * `forecastRaiseMs` and goes when none was foreseen for `forecastClearMs` (`foreseen`).
 */
import { limits } from '../limits.ts';
import type { AgentFlow } from './flow-schemas.ts';
import type { StoredReport } from './report-schemas.ts';
import type { Forecast } from './status-schemas.ts';

const { forecastRaiseMs, forecastClearMs, forecastHorizonSeconds } = limits.control;

/** Seconds, bytes, bytes per second. */
export interface ForecastInput {
  /** Of the newest committed cut. */
  readonly age: number;
  readonly target: number;
  readonly interval: number;
  readonly behind: number;
  readonly churn: number;
  readonly drain: number;
}

function breachIn({ age, target, interval, behind, churn, drain }: ForecastInput): number | null {
  if (age >= target) return 0;
  if (behind <= drain * interval) return null;
  if (age + behind / drain > target) return target - age; // 1; also for a drain of 0
  if (churn <= drain) return null; // 3
  return Math.max(0, (churn * (target - interval) - behind) / (churn - drain)); // 2
}

export function foresee(of: ForecastInput): Forecast {
  const { age, target, behind, churn, drain } = of;
  // To go on for ever, and to have the next point there in time.
  const inTime = target > age ? behind / (target - age) : 0;
  return {
    breachInSeconds: breachIn(of),
    caughtUpInSeconds: drain > churn ? behind / (drain - churn) : null,
    needsBytesPerSecond: Math.max(churn, inTime),
    hasBytesPerSecond: drain,
  };
}

/**
 * Null: something that it takes is not known.
 * @param cutOff nothing can arrive at the target now, whatever the mean still says.
 */
export function forecastOf(
  flow: AgentFlow | null,
  of: { readonly [K in 'age' | 'target' | 'interval' | 'behind']: number | null },
  cutOff: boolean,
): Forecast | null {
  const churn = flow?.churn?.minute ?? flow?.churn?.quarterHour ?? null;
  const drain = cutOff ? 0 : (flow?.drain?.minute ?? flow?.drain?.quarterHour ?? null);
  const { age, target, interval, behind } = of;
  if (age === null || target === null || interval === null || behind === null || churn === null || drain === null)
    return null;
  return foresee({ age, target, interval, behind, churn, drain });
}

/** From when to when a breach was foreseen again and again; what of it is remembered between two reports. */
export type Foreseen = Readonly<NonNullable<StoredReport['foreseen']>>;

const isNear = (forecast: Forecast | null): boolean =>
  (forecast?.breachInSeconds ?? Infinity) <= forecastHorizonSeconds;

/** One report later. */
export function foreseen(before: Foreseen | null, forecast: Forecast | null, nowMs: number): Foreseen | null {
  const lasting = before !== null && nowMs - before.lastMs <= forecastClearMs ? before : null;
  return isNear(forecast) ? { firstMs: lasting?.firstMs ?? nowMs, lastMs: nowMs } : lasting;
}

/** Whether to warn. */
export function isForeseen(of: Foreseen | null, nowMs: number): boolean {
  return of !== null && of.lastMs - of.firstMs >= forecastRaiseMs && nowMs - of.lastMs <= forecastClearMs;
}
