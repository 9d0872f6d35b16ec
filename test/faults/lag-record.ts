/**
 * How far behind many disks are, side by side, over time.
 *
 * What is compared is a disk's lag over a stretch of time, not at an instant: cuts come once per interval, so of two disks that are served alike one is
 * always almost an interval older than the other at some instant. Of each disk count its mean and its worst.
 */
import type { Lag } from './pressured-machine.ts';

interface Lagging {
  readonly name: string;
  readonly lag: Lag;
}

/** Of all disks: that of the one in the middle, that of the one that is worst off, and which that is. */
export interface Spread {
  readonly median: number;
  readonly most: number;
  readonly of: string;
}

export interface Fairness {
  readonly meanMs: Spread;
  readonly worstMs: Spread;
  readonly meanBytes: Spread;
  readonly samples: number;
}

export class LagRecord {
  readonly #lags = new Map<string, Lag[]>();

  note(all: readonly Lagging[]): void {
    for (const { name, lag } of all) {
      const lags = this.#lags.get(name);
      if (lags) lags.push(lag);
      else this.#lags.set(name, [lag]);
    }
  }

  get fairness(): Fairness {
    const by = (what: (lags: readonly Lag[]) => number): Spread =>
      spreadOf([...this.#lags].map(([name, lags]) => [name, what(lags)]));
    return {
      meanMs: by((lags) => mean(lags.map(({ ms }) => ms))),
      worstMs: by((lags) => Math.max(...lags.map(({ ms }) => ms))),
      meanBytes: by((lags) => mean(lags.map(({ bytes }) => bytes))),
      samples: Math.min(...[...this.#lags.values()].map(({ length }) => length)),
    };
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

function spreadOf(values: readonly (readonly [string, number])[]): Spread {
  const sorted = values.toSorted(([, a], [, b]) => a - b);
  const [of, most] = sorted.at(-1) ?? ['nobody', NaN];
  return { median: Math.round(sorted[Math.floor(sorted.length / 2)]?.[1] ?? NaN), most: Math.round(most), of };
}
