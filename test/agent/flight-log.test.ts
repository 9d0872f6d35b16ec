/** Batches on their way, by a steered clock, and how fast they become durable. */
import { beforeEach, expect, test, vi } from 'vitest';
import { newCounters } from '../../src/agent/counters.ts';
import { FlightLog } from '../../src/agent/flight-log.ts';
import { FlowMeter } from '../../src/agent/flow.ts';
import { systemClock } from '../../src/kit/clock.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<typeof import('../../src/limits.ts')>();
  return { ...real, limits: { ...real.limits, agent: { ...real.limits.agent, flightBlocksMax: 8 } } };
});

let nowMs = 0;
const clock = { ...systemClock, wallMs: () => nowMs, monotonicMs: () => nowMs };
let counters = newCounters();
let log = new FlightLog(counters, clock);

beforeEach(() => {
  nowMs = 0;
  counters = newCounters();
  log = new FlightLog(counters, clock);
});

function send(seq: number, batch: number, blocks: readonly number[], disk = 0): void {
  for (const block of blocks) log.sending(disk, block, 100);
  log.sent({ disk, blockCount: 1000, seq, batch, blocks: Uint32Array.from(blocks), payloadBytes: 100 * blocks.length });
}

test('what is durable is counted once, in whatever pieces it is told', () => {
  send(1, 0, [1, 2]);
  send(1, 1, [3]);
  log.durable({ seq: 1, batches: 0 });
  expect([log.payloadBytes, counters.batchesDurable, log.oldestSeq]).toEqual([300, 0, 1]);
  log.durable({ seq: 1, batches: 2 });
  log.durable({ seq: 1, batches: 2 });
  expect([log.payloadBytes, log.durableBytes, counters.batchesDurable, log.oldestSeq]).toEqual([0, 300, 2, null]);
  // The layer goes on after all of it was durable.
  send(1, 2, [4]);
  log.durable({ seq: 1, batches: 2 });
  expect([log.payloadBytes, log.oldestSeq]).toEqual([100, 1]);
  send(2, 0, [5], 1);
  log.durable({ seq: 1, batches: 3 });
  expect([log.payloadBytes, log.oldestSeq]).toEqual([100, 2]);
});

test('what is sent again after a lost session is counted, but not what was durable', () => {
  send(1, 0, [1, 2]);
  send(1, 1, [3]);
  send(2, 0, [3], 1);
  log.durable({ seq: 1, batches: 1 });
  log.sessionEnded();
  expect([log.payloadBytes, log.oldestSeq]).toEqual([0, null]);
  send(9, 0, [1, 2, 3]);
  expect(counters.payloadBytesResent).toBe(100);
  send(10, 0, [3]);
  expect(counters.payloadBytesResent).toBe(100);
  send(11, 0, [3], 1);
  expect(counters.payloadBytesResent).toBe(200);
});

test('of very much that is in flight only the newest batches have their blocks kept', () => {
  for (let batch = 0; batch < 5; batch += 1) send(1, batch, [2 * batch, 2 * batch + 1]);
  expect(log.payloadBytes).toBe(1000);
  log.durable({ seq: 1, batches: 1 });
  log.sessionEnded();
  for (let block = 0; block < 10; block += 1) send(2, block, [block]);
  // The oldest three batches lost theirs when the fifth came.
  expect(counters.payloadBytesResent).toBe(400);
});

test('drain is per second of the time in which something is on its way; churn per second of all', () => {
  const capture = { tracking: 'writes' as const, changedBytes: 0 };
  const scanned = { tracking: 'scan' as const, changedBytes: 0 };
  const meter = new FlowMeter([{ capture }, { capture: scanned }], log, counters);
  expect(meter.measured(0)).toMatchObject({ churn: { minute: null }, drain: { minute: null, quarterHour: null } });
  nowMs = 10_000;
  expect(meter.measured(nowMs)).toMatchObject({ churn: { minute: 0 }, drain: { minute: null } });
  send(1, 0, [1, 2]);
  capture.changedBytes = 6000;
  nowMs = 12_000;
  log.durable({ seq: 1, batches: 1 });
  counters.stageMs.commit = 1500;
  nowMs = 20_000;
  const { churn, drain, waits } = meter.measured(nowMs);
  expect([churn?.minute, churn?.quarterHour, drain.minute, drain.quarterHour]).toEqual([300, 300, 100, 100]);
  expect(waits).toMatchObject({ windowMs: 10_000, commitMs: 1500, readMs: 0 });
  nowMs = 120_000;
  meter.measured(60_000);
  const later = meter.measured(nowMs);
  expect([later.churn?.minute, later.churn?.quarterHour, later.drain.minute, later.drain.quarterHour]).toEqual([
    ...[0, 50, null, 100],
  ]);
  expect(new FlowMeter([{ capture: scanned }], log, counters).measured(nowMs).churn).toBeNull();
});
