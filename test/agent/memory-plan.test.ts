import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { memoryPlan, type MemoryNeeds, type MemoryPlan } from '../../src/agent/memory-plan.ts';
import { isProblem } from '../../src/kit/problem.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';

const { agent, nbd, capture } = limits;
const perDisk = ({ copyBeforeWriteBytes, nbdInFlightBytes, nbdPoolBytes }: MemoryPlan): number =>
  copyBeforeWriteBytes + nbdInFlightBytes + nbdPoolBytes;

/** The least ceiling, as the refusal names it. */
function leastOf(disks: MemoryNeeds): number {
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
  const needs = { served: 3, disks: 3, hashThreads: 4 };
  expect(memoryPlan(null, needs)).toEqual({ ...usual, hashThreads: 4 });
  expect(memoryPlan(64 * 1024, needs)).toEqual({ ...usual, hashThreads: 4 });
});

it('refuses a ceiling that is too small, and the one it names is enough', () => {
  const disks = { served: 2, disks: 3, hashThreads: 4 };
  const least = leastOf(disks);
  expect(() => memoryPlan(least - 1, disks)).toThrow('too little for 3 disks');
  const { nbdInFlightBytes, copyBeforeWriteBytes, hashThreads } = memoryPlan(least, disks);
  expect(hashThreads).toBe(1);
  expect(nbdInFlightBytes).toBeGreaterThanOrEqual(nbd.requestBytesMax);
  expect(copyBeforeWriteBytes).toBeGreaterThanOrEqual(agent.copyBeforeWriteMemoryBytesMin);
  expect(leastOf({ ...disks, served: 0 })).toBeLessThan(least);
});

it('never plans more than the ceiling, nor more than the usual bounds', () => {
  const some = fc.integer({ min: 1, max: 64 });
  fc.assert(
    fc.property(fc.nat({ max: 64 }), some, some, fc.nat({ max: 8192 }), (served, disks, hashThreads, above) => {
      const needs = { served: Math.min(served, disks), disks, hashThreads };
      const ceiling = leastOf(needs) + above;
      const plan = memoryPlan(ceiling, needs);
      const perThread = plan.hashThreads * agent.memoryPerHashThreadBytes;
      const fixed = agent.memoryRuntimeBytes + disks * agent.memoryPerDiskBytes + perThread;
      expect(fixed + needs.served * perDisk(plan)).toBeLessThanOrEqual(ceiling * MiB);
      expect(plan.hashThreads).toBeLessThanOrEqual(hashThreads);
      expect(plan.copyBeforeWriteBytes).toBeLessThanOrEqual(capture.copyBeforeWriteMemoryBytes);
      expect(plan.nbdInFlightBytes).toBeLessThanOrEqual(nbd.inFlightBytesMax);
      expect(plan.nbdPoolBytes).toBeLessThanOrEqual(nbd.poolBytesMax);
    }),
  );
});
