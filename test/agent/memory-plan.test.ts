import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { memoryPlan, type MemoryPlan } from '../../src/agent/memory-plan.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { limits, MiB } from '../../src/limits.ts';

const { agent, nbd, capture } = limits;
const perDisk = ({ copyBeforeWriteBytes, nbdInFlightBytes, nbdPoolBytes }: MemoryPlan): number =>
  copyBeforeWriteBytes + nbdInFlightBytes + nbdPoolBytes;

/** The least ceiling, as the refusal names it. */
function leastOf(disks: { served: number; all: number }): number {
  try {
    memoryPlan(1, disks);
  } catch (error) {
    if (!isProblem(error)) throw error;
    expect(error).toMatchObject({
      code: 'bad-config',
      message: expect.stringContaining('agent.memoryMiB: 1 ') as unknown,
    });
    return Number(/at least (\d+)/.exec(error.remedy)?.[1]);
  }
  throw new Error('1 MiB was enough');
}

it('changes nothing without a ceiling, and nothing with one that is large enough', () => {
  const usual = {
    copyBeforeWriteBytes: capture.copyBeforeWriteMemoryBytes,
    nbdInFlightBytes: nbd.inFlightBytesMax,
    nbdPoolBytes: nbd.poolBytesMax,
  };
  expect(memoryPlan(null, { served: 3, all: 3 })).toEqual(usual);
  expect(memoryPlan(64 * 1024, { served: 3, all: 3 })).toEqual(usual);
});

it('refuses a ceiling that is too small, and the one it names is enough', () => {
  const disks = { served: 2, all: 3 };
  const least = leastOf(disks);
  expect(() => memoryPlan(least - 1, disks)).toThrow('too little for 3 disks');
  const { nbdInFlightBytes, copyBeforeWriteBytes } = memoryPlan(least, disks);
  expect(nbdInFlightBytes).toBeGreaterThanOrEqual(nbd.requestBytesMax);
  expect(copyBeforeWriteBytes).toBeGreaterThanOrEqual(agent.copyBeforeWriteMemoryBytesMin);
  expect(leastOf({ served: 0, all: 3 })).toBeLessThan(least);
});

it('never plans more than the ceiling, nor more than the usual bounds', () => {
  const count = fc.nat({ max: 64 });
  fc.assert(
    fc.property(count, fc.integer({ min: 1, max: 64 }), fc.nat({ max: 8192 }), (served, all, above) => {
      const disks = { served: Math.min(served, all), all };
      const ceiling = leastOf(disks) + above;
      const plan = memoryPlan(ceiling, disks);
      const planned = agent.memoryRuntimeBytes + all * agent.memoryPerDiskBytes + disks.served * perDisk(plan);
      expect(planned).toBeLessThanOrEqual(ceiling * MiB);
      expect(plan.copyBeforeWriteBytes).toBeLessThanOrEqual(capture.copyBeforeWriteMemoryBytes);
      expect(plan.nbdInFlightBytes).toBeLessThanOrEqual(nbd.inFlightBytesMax);
      expect(plan.nbdPoolBytes).toBeLessThanOrEqual(nbd.poolBytesMax);
    }),
  );
});
