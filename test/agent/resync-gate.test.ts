/** When a resync that waits for its window goes on, by a clock that stands still between the looks at it. */
import { expect, test } from 'vitest';
import { ResyncGate } from '../../src/agent/resync-gate.ts';
import type { ResyncWindow } from '../../src/agent/resync.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { parseDayWindow } from '../../src/kit/day-window.ts';
import { limits } from '../../src/limits.ts';

const { resyncWindowPollMs } = limits.agent;
const minuteMs = 60_000;
/** 21:58 in Berlin, summer time. */
const eveningMs = Date.UTC(2026, 6, 1, 19, 58);

class Evening {
  nowMs = eveningMs;
  text = '22:00-06:00';
  readonly paused: number[] = [];
  /** What happens during a pause. */
  meanwhile: (pauses: number) => void = () => undefined;
  readonly gate = new ResyncGate({
    window: () => this.#window(),
    clock: { ...systemClock, wallMs: () => this.nowMs },
    pause: (ms) => {
      this.paused.push(ms);
      this.nowMs += ms;
      this.meanwhile(this.paused.length);
      return Promise.resolve();
    },
  });

  #window(): ResyncWindow {
    const window = parseDayWindow(this.text, 'Europe/Berlin');
    return window.isOpen(this.nowMs) ? { open: true } : { open: false, opensAtMs: window.opensAt(this.nowMs) };
  }

  /** As a resync does. Answers how long it took. */
  async untilOpen(): Promise<number> {
    const fromMs = this.nowMs;
    for (let at = this.gate.opensAtMs(); at !== null; at = this.gate.opensAtMs()) await this.gate.wait(at);
    return this.nowMs - fromMs;
  }
}

test('it opens when the window does, not earlier and not later', async () => {
  const evening = new Evening();
  expect(evening.gate.opensAtMs()).toBe(eveningMs + 2 * minuteMs);
  expect(await evening.untilOpen()).toBe(2 * minuteMs);
  evening.nowMs = Date.UTC(2026, 6, 2, 3, 59, 59);
  expect(evening.gate.opensAtMs()).toBeNull();
  evening.nowMs += 1000;
  expect(evening.gate.opensAtMs()).toBe(Date.UTC(2026, 6, 2, 20, 0));
});

test('a window that is changed meanwhile is seen soon', async () => {
  const evening = new Evening();
  evening.text = '03:00-04:00';
  evening.meanwhile = (pauses) => {
    if (pauses === 2) evening.text = '21:00-23:00';
  };
  expect(await evening.untilOpen()).toBe(2 * resyncWindowPollMs);
});

test('an operator opens it at once, for as long as that is said', async () => {
  const evening = new Evening();
  evening.meanwhile = () => {
    evening.gate.override = true;
  };
  expect(await evening.untilOpen()).toBeLessThanOrEqual(resyncWindowPollMs);
  evening.gate.override = false;
  expect(evening.gate.opensAtMs()).toBe(eveningMs + 2 * minuteMs);
});

test('a wall clock that was set back behind the opening does not make it wait less than nothing', async () => {
  const evening = new Evening();
  await evening.gate.wait(eveningMs - minuteMs);
  expect(evening.paused).toEqual([0]);
});
