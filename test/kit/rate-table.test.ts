import { describe, expect, it } from 'vitest';
import { isProblem, type Problem } from '../../src/kit/problem.ts';
import { firstAbove, parseRateTable, rateText } from '../../src/kit/rate-table.ts';

const at = (text: string, when: string, zone = 'UTC'): number | null => parseRateTable(text, zone).at(Date.parse(when));

function refusal(text: string, zone = 'UTC'): Problem {
  try {
    parseRateTable(text, zone);
  } catch (error) {
    if (isProblem(error)) return error;
    throw error;
  }
  throw new Error(`"${text}" was taken`);
}

const business = 'mon-fri 08:00-18:00 8Mb/s; else unlimited';

describe('a rate table', () => {
  it('knows one rate for all times, in bits and in bytes', () => {
    const rates = ['8Mb/s', '8 Mbit/s', '8Mbps', '1MB/s', '1000kB/s', '1.5Gb/s', '4MiB/s', 'unlimited'].map((text) =>
      at(text, '2026-01-05T12:00:00Z'),
    );
    expect(rates).toEqual([1e6, 1e6, 1e6, 1e6, 1e6, 187.5e6, 4 * 1024 * 1024, null]);
  });

  it('holds the start of a window and not its end, on its days only', () => {
    expect(at(business, '2026-01-05T07:59:59.999Z')).toBeNull(); // A Monday.
    expect(at(business, '2026-01-05T08:00:00Z')).toBe(1e6);
    expect(at(business, '2026-01-05T17:59:59.999Z')).toBe(1e6);
    expect(at(business, '2026-01-05T18:00:00Z')).toBeNull();
    expect(at(business, '2026-01-09T12:00:00Z')).toBe(1e6);
    expect(at(business, '2026-01-10T12:00:00Z')).toBeNull();
    expect(at(business, '2026-01-11T12:00:00Z')).toBeNull();
  });

  it('counts a window over midnight to the day on which it starts, Sunday to Monday too', () => {
    const text = 'sun 22:00-06:00 1MB/s; fri 22:00-06:00 2MB/s; else 8Mb/s';
    expect(at(text, '2026-01-04T21:59:00Z')).toBe(1e6);
    expect(at('sun 22:00-06:00 2MB/s; else unlimited', '2026-01-05T05:59:59Z')).toBe(2e6);
    expect(at('sun 22:00-06:00 2MB/s; else unlimited', '2026-01-05T06:00:00Z')).toBeNull();
    expect(at('sun 22:00-06:00 2MB/s; else unlimited', '2026-01-04T05:00:00Z')).toBeNull();
  });

  it('takes several windows and days, and names for weekdays', () => {
    const text = 'weekdays 08:00-12:00, 13:00-18:00 8Mb/s; sat,sun 4Mb/s; else 80Mb/s';
    expect(at(text, '2026-01-06T12:30:00Z')).toBe(10e6);
    expect(at(text, '2026-01-06T13:00:00Z')).toBe(1e6);
    expect(at(text, '2026-01-10T03:00:00Z')).toBe(5e5);
    expect(at('fri-mon 1MB/s; else unlimited', '2026-01-05T03:00:00Z')).toBe(1e6);
    expect(at('fri-mon 1MB/s; else unlimited', '2026-01-06T03:00:00Z')).toBeNull();
  });

  it('goes by the clock on the wall where clocks are changed', () => {
    const text = '02:00-04:00 1MB/s; else unlimited';
    const zone = 'Europe/Berlin';
    // 29 March 2026: 02:00 to 03:00 does not exist; the window is an hour long, from 01:00 to 02:00 UTC.
    expect(at(text, '2026-03-29T00:59:59.999Z', zone)).toBeNull();
    expect(at(text, '2026-03-29T01:00:00Z', zone)).toBe(1e6);
    expect(at(text, '2026-03-29T01:59:59.999Z', zone)).toBe(1e6);
    expect(at(text, '2026-03-29T02:00:00Z', zone)).toBeNull();
    // 25 October 2026: 02:00 to 03:00 comes twice; three hours, from 00:00 to 03:00 UTC.
    expect(at(text, '2026-10-24T23:59:59.999Z', zone)).toBeNull();
    expect(at(text, '2026-10-25T00:00:00Z', zone)).toBe(1e6);
    expect(at(text, '2026-10-25T02:59:59.999Z', zone)).toBe(1e6);
    expect(at(text, '2026-10-25T03:00:00Z', zone)).toBeNull();
    // One table asked forwards over the change, minute by minute, says the same.
    const table = parseRateTable(text, zone);
    const limited = Array.from({ length: 300 }, (_, minute) =>
      table.at(Date.parse('2026-10-24T23:00:00Z') + minute * 60_000),
    ).filter((rate) => rate !== null);
    expect(limited).toHaveLength(180);
  });

  it('refuses what it does not understand, with the text and what to write', () => {
    expect(refusal('8').message).toBe('"8" does not end with a rate');
    expect(refusal('8').remedy).toContain('b for bits and B for bytes');
    expect(refusal('mon-fri 08-18 8Mb/s; else unlimited').message).toBe('"08-18" is not a window of the day');
    expect(refusal('mon-fri 08-18 8Mb/s; else unlimited').remedy).toContain('did you mean "08:00-18:00"?');
    expect(refusal('mno-fri 8Mb/s; else unlimited').message).toBe('"mno" is not a day of the week');
    expect(refusal('8Mb/s', 'Europe/Berln').remedy).toContain('Europe/Berlin');
    expect(refusal('1.2.3Mb/s').message).toBe('"1.2.3Mb/s" is not a rate');
  });

  it('refuses a limit of zero, and one at which a batch takes an hour', () => {
    expect(refusal('mon-fri 0 Mb/s; else 8Mb/s').message).toBe('"mon-fri 0 Mb/s" lets nothing pass');
    expect(refusal('0Mb/s').remedy).toContain('tidemark pause');
    expect(refusal('1kb/s').message).toBe('"1kb/s" is below 8 kb/s, the least limit there is');
  });

  it('refuses windows that contradict, and names both and the time', () => {
    const { message, remedy } = refusal('mon-fri 08:00-18:00 8Mb/s; fri 17:00-20:00 2Mb/s; else unlimited');
    expect(message).toBe('"mon-fri 08:00-18:00 8Mb/s" and "fri 17:00-20:00 2Mb/s" contradict: both speak of fri 17:00');
    expect(remedy).toContain('overlap');
    expect(refusal('22:00-06:00 8Mb/s; 05:00-07:00 2Mb/s; else unlimited').message).toContain('mon 05:00');
  });

  it('refuses a table that does not say what else holds, or says it in the middle', () => {
    for (const text of ['mon 8Mb/s', '8Mb/s; 4Mb/s', 'else 8Mb/s; mon 4Mb/s', 'mon 8Mb/s; else 1MB/s; else 2MB/s'])
      expect(refusal(text).message, text).toContain('does not say what holds at all other times');
  });

  it('finds where one allows more than another', () => {
    const policy = parseRateTable(business, 'UTC');
    expect(firstAbove(parseRateTable('8Mb/s', 'UTC'), policy)).toBeNull();
    expect(firstAbove(parseRateTable('10Mb/s', 'UTC'), policy)).toBe('mon 08:00');
    expect(firstAbove(parseRateTable('tue 09:30-10:00 9Mb/s; else 1Mb/s', 'UTC'), policy)).toBe('tue 09:30');
  });

  it('writes rates for people', () => {
    expect([1e6, 187.5e6, 80_000, null].map(rateText)).toEqual(['8 Mb/s', '1.5 Gb/s', '640 kb/s', 'unlimited']);
  });
});
