/**
 * Windows of the day in a time zone: `22:00-06:00`, several with commas, over midnight if the end comes first. Pure: the caller brings
 * the time.
 *
 * Invariants:
 *  1. A window is open exactly while a clock on the wall of that zone shows a time inside it, its start included, its end not. So where
 *     clocks are changed a window gets an hour less or more; one that lies wholly in an hour that does not exist stays closed that day, one
 *     in a doubled hour opens twice.
 *  2. `opensAt(t)` is the first instant at or after `t` at which `isOpen` holds. Between two changes of the clocks the local time is linear,
 *     so a closed window opens either at a start or at the instant of a change: nothing else is looked at.
 */
import { localTimeIn, type LocalTime } from './local-time.ts';
import { Problem } from './problem.ts';

export interface DayWindow {
  /** In its one form: `22:00-06:00,12:00-13:00`. */
  readonly text: string;
  readonly local: LocalTime;
  /** Times are milliseconds since the Unix epoch. */
  isOpen(ms: number): boolean;
  opensAt(ms: number): number;
}

export interface DaySpan {
  /** Minutes of the day: 0 to 1439, and 1 to 1440. The end may come first (over midnight). */
  readonly start: number;
  readonly end: number;
}

const minuteMs = 60_000;
const dayMinutes = 24 * 60;
const dayMs = dayMinutes * minuteMs;

/**
 * @param text windows, with commas between them; `-` or `–` between start and end.
 * @throws Problem `bad-argument`: names the text that does not parse and what was probably meant, or the zone.
 */
export function parseDayWindow(text: string, timeZone: string): DayWindow {
  const spans = daySpans(text);
  const local = localTimeIn(timeZone);
  const timeOfDay = (ms: number): number => ((local.at(ms) % dayMs) + dayMs) % dayMs;
  const isOpen = (ms: number): boolean => {
    const minute = timeOfDay(ms) / minuteMs;
    return spans.some(({ start, end }) =>
      start < end ? start <= minute && minute < end : start <= minute || minute < end,
    );
  };
  const opensAt = (ms: number): number => {
    let from = ms;
    while (!isOpen(from)) {
      const untilStart = spans.map(({ start }) => (start * minuteMs - timeOfDay(from) + dayMs) % dayMs);
      const next = from + Math.min(...untilStart);
      const changed = clockChange(local, from, next);
      if (changed === null) return next;
      from = changed;
    }
    return from;
  };
  return { text: spans.map(textOf).join(','), local, isOpen, opensAt };
}

/** The windows of `text` as minutes of the day. @throws Problem `bad-argument`, as `parseDayWindow` does. */
export function daySpans(text: string): DaySpan[] {
  return text.split(',').map((part) => spanIn(part));
}

/** The first instant in (from, to] at which the zone's offset is not what it was at `from`, to the millisecond; null if there is none. */
function clockChange(local: LocalTime, from: number, to: number): number | null {
  const offset = (ms: number): number => local.at(ms) - ms;
  const before = offset(from);
  if (offset(to) === before) return null;
  let [same, other] = [from, to];
  while (other - same > 1) {
    const middle = Math.floor((same + other) / 2);
    if (offset(middle) === before) same = middle;
    else other = middle;
  }
  return other;
}

function spanIn(part: string): DaySpan {
  const match = /^\s*(\d{1,2}):(\d{2})\s*[-–]\s*(\d{1,2}):(\d{2})\s*$/.exec(part);
  const [start, end] = match ? [minutesOf(match[1], match[2]), minutesOf(match[3], match[4])] : [null, null];
  if (start === null || end === null || start === dayMinutes || start === end) throw notAWindow(part.trim());
  return { start, end: end === 0 ? dayMinutes : end };
}

/** 24:00 counts, as the end of the day; null for what no clock shows. */
function minutesOf(hours: string | undefined, minutes: string | undefined): number | null {
  const [hour, minute] = [Number(hours), Number(minutes)];
  const total = hour * 60 + minute;
  return minute < 60 && total <= dayMinutes ? total : null;
}

const two = (value: number): string => String(value).padStart(2, '0');
export const clockText = (minutes: number): string => `${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
const textOf = ({ start, end }: DaySpan): string => `${clockText(start)}-${clockText(end)}`;

function notAWindow(part: string): Problem {
  const meant = guess(part);
  const form = 'write start and end as HH:MM-HH:MM, several with commas, 00:00-24:00 for always';
  return new Problem('bad-argument', `"${part}" is not a window of the day`, {
    remedy: meant === null ? `${form}; for example 22:00-06:00` : `${form}; did you mean "${meant}"?`,
  });
}

/** Two times in whatever form: `22-6`, `10pm to 6 am`, `22.00/06.00`, `2200-0600`. */
function guess(part: string): string | null {
  const times = [...part.matchAll(/(\d{1,2})[:.h]?(\d{2})?\s*([ap]m)?/gi)].map(([, hours, minutes = '0', half]) => {
    const of12 = half === undefined ? Number(hours) : (Number(hours) % 12) + (half.toLowerCase() === 'pm' ? 12 : 0);
    return (of12 % 24) * 60 + Math.min(Number(minutes), 59);
  });
  const [start, end] = times;
  if (times.length !== 2 || start === undefined || end === undefined) return null;
  return start === end ? '00:00-24:00' : textOf({ start, end: end === 0 ? dayMinutes : end });
}
