/**
 * How many bytes per second may pass, by the day of the week and the time of the day: `mon-fri 08:00-18:00 8Mb/s; else unlimited`. Pure: the caller
 * brings the time.
 *
 *   table = rate | rule *(";" rule) ";" "else" rate
 *   rule  = [days] [windows] rate          at least one of the two
 *   days  = mon-fri | sat,sun | weekdays | weekends
 *   windows as in `day-window.ts`; rate = unlimited | 8Mb/s | 500kB/s | 1.5Gbit/s | 4MiB/s
 *
 * Invariants:
 *  1. At every instant exactly one rate holds: windows that overlap are refused, and what no window covers is the `else`, which must be there.
 *  2. The clock on the wall of the zone decides, so where clocks are changed a window gets an hour less or more (`day-window.ts`).
 *  3. A window over midnight belongs to the day on which it starts.
 *  4. A rate is never zero: who wants nothing to pass pauses the machine, which says so in its points.
 */
import { clockText, daySpans } from './day-window.ts';
import { localTimeIn } from './local-time.ts';
import { nearest } from './nearest.ts';
import { Problem } from './problem.ts';
import { GiB, KiB, MiB } from './sizes.ts';

export interface RateTable {
  readonly text: string;
  readonly timeZone: string;
  /** Bytes per second at `ms` (milliseconds since the Unix epoch); null: unlimited. */
  at(ms: number): number | null;
  /** The same at a minute of the week, of which 0 is Monday 00:00 of the clock on the wall. */
  atMinute(minute: number): number | null;
}

/** Below it one batch takes most of an hour. */
const bytesPerSecondMin = 1000;
const minuteMs = 60_000;
const dayMinutes = 24 * 60;
const weekMinutes = 7 * dayMinutes;
/** 1970-01-01 was a Thursday. */
const epochDay = 3;
const days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
const form = 'write for example "8Mb/s", or "mon-fri 08:00-18:00 8Mb/s; else unlimited"';

const units: Readonly<Record<string, number>> = {
  ...{ '': 1, k: 1e3, K: 1e3, M: 1e6, G: 1e9 },
  ...{ Ki: KiB, ki: KiB, Mi: MiB, Gi: GiB },
};

/** A rate from some minute of the week on, until the next step. */
interface Step {
  readonly from: number;
  readonly rate: number | null;
}

/** @throws Problem `bad-argument`: names the text that does not parse, or the windows that contradict, and what to write. */
export function parseRateTable(text: string, timeZone: string): RateTable {
  const local = localTimeIn(timeZone);
  const steps = stepsOf(text);
  const atMinute = (minute: number): number | null => steps.findLast(({ from }) => from <= minute)?.rate ?? null;
  // The zone database is asked once a minute: no window and no change of the clocks falls inside one.
  let newest: { readonly minute: number; readonly rate: number | null } | null = null;
  const at = (ms: number): number | null => {
    const minute = Math.floor(ms / minuteMs);
    if (newest?.minute !== minute) {
      const shown = Math.floor(local.at(ms) / minuteMs) + epochDay * dayMinutes;
      newest = { minute, rate: atMinute(((shown % weekMinutes) + weekMinutes) % weekMinutes) };
    }
    return newest.rate;
  };
  return { text, timeZone, at, atMinute };
}

/** The first minute of the week at which `inner` allows more than `outer`, as `mon 08:00`; null: never. */
export function firstAbove(inner: RateTable, outer: RateTable): string | null {
  const allowed = (rate: number | null): number => rate ?? Infinity;
  for (let minute = 0; minute < weekMinutes; minute += 1) {
    if (allowed(inner.atMinute(minute)) > allowed(outer.atMinute(minute))) return minuteText(minute);
  }
  return null;
}

/** `8 Mb/s`, `1.5 Gb/s`, `640 kb/s`; null: `unlimited`. */
export function rateText(bytesPerSecond: number | null): string {
  if (bytesPerSecond === null) return 'unlimited';
  const bits = bytesPerSecond * 8;
  const [unit, size] = bits >= 1e9 ? ['Gb/s', 1e9] : bits >= 1e6 ? ['Mb/s', 1e6] : ['kb/s', 1e3];
  return `${Number((bits / size).toFixed(1))} ${unit}`;
}

function stepsOf(text: string): Step[] {
  const parts = text.split(';').map((part) => part.trim());
  const rules = parts.map((part) => ruleIn(part));
  const [last] = rules.slice(-1);
  if (rules.length === 1 && last?.when === '') return [{ from: 0, rate: last.rate }];
  const lone = rules.findIndex(({ when }, index) => when === '' || (when === 'else') !== (index === rules.length - 1));
  if (last?.when !== 'else' || lone !== -1) {
    throw new Problem('bad-argument', `"${text}" does not say what holds at all other times, once and at the end`, {
      remedy: 'give every rate its days or window, and end with "; else unlimited" or "; else 100Mb/s"',
    });
  }
  const week = new Array<number | null | undefined>(weekMinutes).fill(undefined);
  rules.slice(0, -1).forEach(({ when, rate }, index) => {
    for (const minute of minutesOf(when)) {
      if (week[minute] !== undefined) throw overlap(parts, index, minute);
      week[minute] = rate;
    }
  });
  const steps: Step[] = [];
  week.forEach((said, from) => {
    const rate = said === undefined ? last.rate : said;
    if (steps.length === 0 || steps.at(-1)?.rate !== rate) steps.push({ from, rate });
  });
  return steps;
}

function overlap(parts: readonly string[], index: number, minute: number): Problem {
  const earlier = parts.slice(0, index).find((part) => minutesOf(ruleIn(part).when).includes(minute)) ?? parts[index];
  const [one, other] = [earlier, parts[index]].map((part) => `"${part ?? ''}"`);
  return new Problem('bad-argument', `${one} and ${other} contradict: both speak of ${minuteText(minute)}`, {
    remedy: 'cut the windows so that none overlaps another',
  });
}

/** `when`: days and windows, `else`, or nothing. */
function ruleIn(part: string): { readonly when: string; readonly rate: number | null } {
  const match = /^(?<when>.*?)(?:^|\s+)(?<rate>unlimited|[\d.]+\s*[kKMG]?i?(?:bit|b|B)(?:\/s|ps))$/.exec(part);
  const [when, rate] = [match?.groups?.['when'], match?.groups?.['rate']];
  if (when === undefined || rate === undefined) {
    const noUnit = /(?:^|\s)[\d.]+\s*$/.test(part);
    throw new Problem('bad-argument', `"${part}" does not end with a rate`, {
      remedy: noUnit ? `give the number its unit, b for bits and B for bytes; ${form}` : form,
    });
  }
  return { when: when.trim().toLowerCase().replaceAll(/,\s+/g, ','), rate: rateIn(part, rate) };
}

function rateIn(part: string, text: string): number | null {
  if (text === 'unlimited') return null;
  const [, digits = '', prefix = '', unit] = /^([\d.]+)\s*([kKMG]?i?)(bit|b|B)/.exec(text) ?? [];
  const size = units[prefix];
  const bytes = (Number(digits) * (size ?? NaN)) / (unit === 'B' ? 1 : 8);
  if (!Number.isFinite(bytes)) throw new Problem('bad-argument', `"${text}" is not a rate`, { remedy: form });
  if (bytes === 0) {
    throw new Problem('bad-argument', `"${part}" lets nothing pass`, {
      remedy: 'to stop a machine use `tidemark pause`; for no limit write "unlimited"',
    });
  }
  if (bytes < bytesPerSecondMin) {
    throw new Problem('bad-argument', `"${part}" is below ${rateText(bytesPerSecondMin)}, the least limit there is`, {
      remedy: 'write more, or stop the machine with `tidemark pause`',
    });
  }
  return bytes;
}

function minutesOf(when: string): number[] {
  const [, named = '', windows = ''] = /^([a-z][a-z,–-]*)?\s*(.*)$/.exec(when) ?? [];
  const spans = windows === '' ? [{ start: 0, end: dayMinutes }] : daySpans(windows);
  return daysIn(named).flatMap((day) =>
    spans.flatMap(({ start, end }) => {
      const length = end > start ? end - start : end - start + dayMinutes;
      return Array.from({ length }, (_, index) => (day * dayMinutes + start + index) % weekMinutes); // 3
    }),
  );
}

function daysIn(named: string): number[] {
  if (named === '' || named === 'daily') return [0, 1, 2, 3, 4, 5, 6];
  if (named === 'weekdays') return [0, 1, 2, 3, 4];
  if (named === 'weekends') return [5, 6];
  return named.split(',').flatMap((range) => {
    const [first = '', last = first] = range.split(/[-–]/);
    const [from, to] = [dayIn(first), dayIn(last)];
    return Array.from({ length: ((to - from + 7) % 7) + 1 }, (_, index) => (from + index) % 7);
  });
}

function dayIn(name: string): number {
  const day = days.findIndex((one) => one === name.slice(0, 3));
  if (day !== -1) return day;
  const near = nearest(name, [...days, 'weekdays', 'weekends', 'daily', 'else']);
  throw new Problem('bad-argument', `"${name}" is not a day of the week`, {
    remedy: `write mon, tue, wed, thu, fri, sat, sun, weekdays or weekends; did you mean "${near}"?`,
  });
}

const minuteText = (minute: number): string =>
  `${days[Math.floor(minute / dayMinutes)] ?? ''} ${clockText(minute % dayMinutes)}`;
