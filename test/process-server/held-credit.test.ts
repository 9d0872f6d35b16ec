/** What an agent may send on while its batches wait in the spool: all of it, half of what drains, or nothing, by the level. */
import { expect, it } from 'vitest';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { HeldCredit } from '../../src/process-server/held-credit.ts';
import type { SpoolLevel } from '../../src/process-server/spool-report.ts';

const { spoolTrickleBytes, sessionWindowBytes } = limits.processServer;

/** `passed()`: what was given back since it was asked last. */
function held(first: SpoolLevel) {
  const state = { level: first, bytes: 0 };
  const credit = new HeldCredit(
    () => state.level,
    (bytes) => {
      state.bytes += bytes;
    },
  );
  const passed = (): number => {
    const { bytes } = state;
    state.bytes = 0;
    return bytes;
  };
  return { credit, passed, turn: (level: SpoolLevel) => Object.assign(state, { level }) };
}

it.each<SpoolLevel>(['ok', 'warning-30', 'warning-25'])('%s: at once', (level) => {
  const { credit, passed } = held(level);
  credit.spooled(7 * MiB);
  expect(passed()).toBe(7 * MiB);
});

it('throttling: half of what the target took, whatever waits', () => {
  const { credit, passed } = held('throttling');
  credit.spooled(100 * MiB);
  expect(passed()).toBe(0);
  let sum = 0;
  for (let batch = 0; batch < 20; batch += 1) {
    credit.drained(1 * MiB);
    sum += passed();
  }
  expect(sum).toBe(10 * MiB);
});

it('throttling: a batch of the largest size every second, also while nothing drains', () => {
  const { credit, passed } = held('throttling');
  credit.spooled(100 * MiB);
  for (let second = 0; second < 5; second += 1) {
    credit.tick();
    expect(passed()).toBe(spoolTrickleBytes);
  }
});

it('throttling: what nobody used up makes no burst beyond a window', () => {
  const { credit, passed } = held('throttling');
  credit.drained(1000 * MiB);
  credit.spooled(100 * MiB);
  expect(passed()).toBe(sessionWindowBytes);
});

it('full: nothing, whatever drains, and all of it once there is room again', () => {
  const { credit, passed, turn } = held('full');
  credit.spooled(3 * MiB);
  credit.drained(8 * MiB);
  credit.tick();
  expect(passed()).toBe(0);
  turn('warning-25');
  credit.tick();
  expect(passed()).toBe(3 * MiB);
});
