/**
 * What the clock on the wall says in a time zone, by the time zone database of the runtime. "Local time" here is a number: the
 * milliseconds since 1970-01-01T00:00 that a clock in that zone shows, as if there were no zones. It jumps where clocks are changed.
 */
import { nearest } from './nearest.ts';
import { Problem } from './problem.ts';

export interface LocalTime {
  readonly timeZone: string;
  /** Local time at `ms` (milliseconds since the Unix epoch). */
  at(ms: number): number;
  /** `2026-03-29 22:00 Europe/Berlin`. */
  text(ms: number): string;
}

/** @throws Problem `bad-argument`: the runtime knows no such zone; names the nearest one. */
export function localTimeIn(timeZone: string): LocalTime {
  const format = formatIn(timeZone);
  const at = (ms: number): number => {
    const parts = new Map(format.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    const part = (type: Intl.DateTimeFormatPartTypes): number => parts.get(type) ?? 0;
    const seconds = Date.UTC(
      part('year'),
      part('month') - 1,
      part('day'),
      part('hour'),
      part('minute'),
      part('second'),
    );
    return seconds + (((ms % 1000) + 1000) % 1000);
  };
  const text = (ms: number): string => `${new Date(at(ms)).toISOString().slice(0, 16).replace('T', ' ')} ${timeZone}`;
  return { timeZone, at, text };
}

function formatIn(timeZone: string): Intl.DateTimeFormat {
  const number = '2-digit';
  try {
    return new Intl.DateTimeFormat('en-u-ca-iso8601-nu-latn', {
      timeZone,
      hourCycle: 'h23',
      ...{ year: 'numeric', month: number, day: number, hour: number, minute: number, second: number },
    });
  } catch {
    const known = ['UTC', ...Intl.supportedValuesOf('timeZone')];
    throw new Problem('bad-argument', `"${timeZone}" is not a time zone`, {
      remedy: `write a name of the IANA time zone database; did you mean "${nearest(timeZone, known)}"?`,
    });
  }
}
