import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Budget, type Window } from '../../src/process-server/budget.ts';

const [totalBytes, minBytes, maxBytes] = [1000, 50, 300];
const budgetOf = (): Budget => new Budget({ totalBytes, minBytes, maxBytes });

describe('windows', () => {
  it('never exceed the total, their maximum or their minimum, whatever sessions do', () => {
    const step = fc.record({
      who: fc.nat(12),
      what: fc.constantFrom('join', 'use', 'use', 'use', 'leave'),
      part: fc.nat(100),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const budget = budgetOf();
        const sessions = new Map<number, { window: Window; granted: number }>();
        for (const { who, what, part } of steps) {
          const session = sessions.get(who);
          if (what === 'join' && !session && sessions.size < 10) {
            const window = budget.join();
            sessions.set(who, { window, granted: window.grant() });
          } else if (what === 'use' && session) {
            const used = Math.floor((session.granted * part) / 100);
            session.window.returned(used);
            session.granted += session.window.grant() - used;
          } else if (what === 'leave' && session) {
            session.window.leave();
            session.window.leave();
            sessions.delete(who);
          }
          const held = [...sessions.values()];
          const sum = held.reduce((bytes, { window }) => bytes + window.size, 0);
          expect(sum).toBe(budget.inUseBytes);
          expect(sum).toBeLessThanOrEqual(totalBytes);
          for (const { window, granted } of held) {
            expect(window.size).toBeGreaterThanOrEqual(minBytes);
            expect(window.size).toBeLessThanOrEqual(maxBytes);
            expect(granted).toBeLessThanOrEqual(window.size);
            expect(granted).toBeGreaterThanOrEqual(0);
          }
        }
      }),
    );
  });

  it('grow freely up to a bound, above it only while the pool has a thread to spare', () => {
    let isCrowded = true;
    const budget = new Budget({ totalBytes, minBytes, maxBytes, freeBytes: 120, isCrowded: () => isCrowded });
    const window = budget.join();
    const round = (): number => {
      window.grant();
      window.returned(window.size);
      return window.size;
    };
    expect([round(), round(), round()]).toEqual([100, 200, 200]);
    isCrowded = false;
    expect(round()).toBe(300);
  });

  it('grow while a session is busy, and shrink for those who come', () => {
    const budget = budgetOf();
    const first = budget.join();
    first.grant();
    for (let round = 0; round < 5; round += 1) {
      first.returned(first.size);
      first.grant();
    }
    expect(first.size).toBe(maxBytes);
    const others = Array.from({ length: 9 }, () => budget.join());
    first.returned(first.size);
    expect(first.size).toBe(100);
    expect(() => budget.join()).toThrow(/in use/);
    for (const window of [first, ...others]) window.leave();
    expect(budget.inUseBytes).toBe(0);
  });
});
