import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseDayWindow } from '../../src/kit/day-window.ts';
import { localTimeIn } from '../../src/kit/local-time.ts';
import { isProblem, type Problem } from '../../src/kit/problem.ts';

const iso = (text: string): number => Date.parse(text);
const opens = (window: string, zone: string, from: string): string =>
  new Date(parseDayWindow(window, zone).opensAt(iso(from))).toISOString().replace('.000Z', 'Z');
const isOpen = (window: string, zone: string, at: string): boolean => parseDayWindow(window, zone).isOpen(iso(at));

function refusal(window: string, zone = 'UTC'): Problem {
  try {
    parseDayWindow(window, zone);
  } catch (error) {
    if (isProblem(error)) return error;
    throw error;
  }
  throw new Error(`"${window}" in ${zone} was taken`);
}

describe('a window of the day', () => {
  it('holds its start and not its end, over midnight too', () => {
    expect(isOpen('22:00-06:00', 'UTC', '2026-01-01T21:59:59.999Z')).toBe(false);
    expect(isOpen('22:00-06:00', 'UTC', '2026-01-01T22:00:00Z')).toBe(true);
    expect(isOpen('22:00-06:00', 'UTC', '2026-01-02T05:59:59.999Z')).toBe(true);
    expect(isOpen('22:00-06:00', 'UTC', '2026-01-02T06:00:00Z')).toBe(false);
    expect(isOpen('22:00-24:00', 'UTC', '2026-01-01T23:59:59.999Z')).toBe(true);
    expect(isOpen('22:00-00:00', 'UTC', '2026-01-02T00:00:00Z')).toBe(false);
    expect(isOpen('00:00-24:00', 'UTC', '2026-01-02T00:00:00Z')).toBe(true);
  });

  it('takes several, and opens at the next of them', () => {
    const text = '22:00–06:00, 12:00 - 13:30';
    expect(parseDayWindow(text, 'UTC').text).toBe('22:00-06:00,12:00-13:30');
    expect(opens(text, 'UTC', '2026-01-01T06:00:00Z')).toBe('2026-01-01T12:00:00Z');
    expect(opens(text, 'UTC', '2026-01-01T12:45:10Z')).toBe('2026-01-01T12:45:10Z');
    expect(opens(text, 'UTC', '2026-01-01T13:30:00Z')).toBe('2026-01-01T22:00:00Z');
  });

  it('goes by the clock of its zone, half and quarter hours included', () => {
    expect(opens('22:00-06:00', 'Asia/Kolkata', '2026-01-01T12:00:00Z')).toBe('2026-01-01T16:30:00Z');
    expect(opens('22:00-06:00', 'Asia/Kathmandu', '2026-01-01T12:00:00Z')).toBe('2026-01-01T16:15:00Z');
    expect(opens('22:00-06:00', 'America/St_Johns', '2026-07-01T12:00:00Z')).toBe('2026-07-02T00:30:00Z');
    expect(localTimeIn('Asia/Kolkata').text(iso('2026-01-01T16:30:00Z'))).toBe('2026-01-01 22:00 Asia/Kolkata');
  });

  it('opens with the change of the clocks when its start does not exist that day', () => {
    expect(opens('02:30-04:00', 'Europe/Berlin', '2026-03-29T00:00:00Z')).toBe('2026-03-29T01:00:00Z');
    expect(opens('02:30-04:00', 'Australia/Sydney', '2026-10-03T12:00:00Z')).toBe('2026-10-03T16:00:00Z');
    expect(opens('02:15-04:00', 'Australia/Lord_Howe', '2026-10-03T12:00:00Z')).toBe('2026-10-03T15:30:00Z');
  });

  it('stays closed on a day on which none of it exists', () => {
    expect(opens('02:15-02:45', 'Europe/Berlin', '2026-03-29T00:00:00Z')).toBe('2026-03-30T00:15:00Z');
    expect(opens('12:00-13:00', 'Pacific/Apia', '2011-12-30T00:00:00Z')).toBe('2011-12-30T22:00:00Z');
    expect(opens('12:00-13:00', 'Pacific/Apia', '2011-12-29T23:00:00Z')).toBe('2011-12-30T22:00:00Z');
  });

  it('opens twice in a doubled hour', () => {
    const [window, zone] = ['02:15-02:45', 'Europe/Berlin'];
    expect(opens(window, zone, '2026-10-25T00:00:00Z')).toBe('2026-10-25T00:15:00Z');
    expect(isOpen(window, zone, '2026-10-25T00:50:00Z')).toBe(false);
    expect(opens(window, zone, '2026-10-25T00:50:00Z')).toBe('2026-10-25T01:15:00Z');
    expect(opens('01:40-01:50', 'Australia/Lord_Howe', '2026-04-04T14:50:00Z')).toBe('2026-04-04T15:10:00Z');
    expect(opens('23:30-23:50', 'America/Santiago', '2026-04-05T02:55:00Z')).toBe('2026-04-05T03:30:00Z');
  });

  it('agrees with a clock that is looked at every minute, across every change of the clocks', () => {
    const zones = ['UTC', 'Europe/Berlin', 'America/New_York', 'America/Santiago', 'America/St_Johns', 'Asia/Tehran'];
    zones.push('Asia/Kolkata', 'Australia/Sydney', 'Australia/Lord_Howe', 'Pacific/Chatham', 'Africa/Casablanca');
    // Within two days of a change in some of these zones, and anywhere.
    const near = ['2026-03-08', '2026-03-29', '2026-04-05', '2026-10-04', '2026-10-25', '2026-11-01', '2026-02-15'];
    const instant = fc
      .tuple(
        fc.constantFrom(...near),
        fc.integer({ min: -2 * 1440, max: 2 * 1440 }),
        fc.integer({ max: 59_999, min: 0 }),
      )
      .map(([day, minutes, ms]) => iso(day) + minutes * 60_000 + ms);
    const minute = fc.integer({ min: 0, max: 1439 });
    const spans = fc.array(fc.tuple(minute, minute), { minLength: 1, maxLength: 3 });
    const two = (value: number): string => String(value).padStart(2, '0');
    const clock = (of: number): string => `${two(Math.floor(of / 60))}:${two(of % 60)}`;
    fc.assert(
      fc.property(fc.constantFrom(...zones), instant, spans, (zone, from, drawn) => {
        const wanted = drawn.filter(([start, end]) => start !== end).map(([start, end]) => [clock(start), clock(end)]);
        fc.pre(wanted.length > 0);
        const wall = new Intl.DateTimeFormat('en-GB', { timeZone: zone, timeStyle: 'short', hourCycle: 'h23' });
        const openAt = (ms: number): boolean => {
          const now = wall.format(ms);
          return wanted.some(([start = '', end = '']) =>
            start < end ? start <= now && now < end : start <= now || now < end,
          );
        };
        const window = parseDayWindow(wanted.map((span) => span.join('-')).join(','), zone);
        const found = window.opensAt(from);
        expect(openAt(found)).toBe(true);
        expect(window.isOpen(found)).toBe(true);
        // Nothing opens but on a whole minute, so the instants before `found` stand for all between.
        expect(found === from || found % 60_000 === 0).toBe(true);
        for (let at = found - 1; at >= from; at -= 60_000) {
          if (openAt(at) || window.isOpen(at)) throw new Error(`${zone}: open ${found - at} ms before it opens`);
        }
      }),
      { numRuns: 150 },
    );
  });
});

describe('what is no window of the day', () => {
  it.each([
    ['22-6', '22:00-06:00'],
    ['10pm to 6 am', '22:00-06:00'],
    ['2200/0600', '22:00-06:00'],
    ['22:00-26:00', '22:00-02:00'],
    ['22:00-06:75', '22:00-06:59'],
    ['24:00-03:00', '00:00-03:00'],
    ['22:00-22:00', '00:00-24:00'],
  ])('%s is refused, and what was meant is named', (text, meant) => {
    const { code, message, remedy } = refusal(text);
    expect([code, message]).toEqual(['bad-argument', `"${text}" is not a window of the day`]);
    expect(remedy).toContain(`did you mean "${meant}"?`);
    expect(parseDayWindow(meant, 'UTC').text).toBe(meant);
  });

  it.each(['', 'at night', '22:00', '22:00-06:00-07:00'])('"%s" is refused with an example', (text) => {
    expect(refusal(text).remedy).toContain('for example 22:00-06:00');
  });

  it('names the part that is wrong, of several', () => {
    expect(refusal('22:00-06:00, 12-13').message).toBe('"12-13" is not a window of the day');
  });

  it('knows the zones, and names the nearest to one it does not know', () => {
    const { message, remedy } = refusal('22:00-06:00', 'Europe/Berln');
    expect(message).toBe('"Europe/Berln" is not a time zone');
    expect(remedy).toContain('"Europe/Berlin"');
    expect(refusal('22:00-06:00', '').remedy).toContain('IANA');
  });
});
