import { describe, expect, it } from 'vitest';
import { Governor } from '../../src/agent/governor.ts';
import { leafOf } from '../../src/kernels/hash.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';

const { paceEveryBytes, paceBurstMs } = limits.agent;

/** A machine on which time passes only by computing (on any number of cores) and by sleeping. */
class Machine {
  wallMs = 0;
  cpuMs = 0;
  readonly clock: Clock = {
    ...systemClock,
    monotonicMs: () => this.wallMs,
    sleep: async (ms) => {
      this.wallMs += ms;
    },
  };

  governor(cores: number): Governor {
    return new Governor({ cores, clock: this.clock, cpuMs: () => this.cpuMs });
  }

  compute(ms: number, cores = 1): void {
    this.cpuMs += ms;
    this.wallMs += ms / cores;
  }
}

describe('by a steered clock', () => {
  it.each([
    [0.3, 1],
    [1.5, 4],
    [0.05, 2],
  ])('keeps to %d cores on %d', async (cores, of) => {
    const machine = new Machine();
    const governor = machine.governor(cores);
    for (let piece = 0; piece < 20_000; piece += 1) {
      await governor.pace(paceEveryBytes);
      machine.compute(2, of);
    }
    expect(machine.cpuMs / machine.wallMs).toBeCloseTo(cores, 2);
    expect(governor.pausedMs).toBeGreaterThan(0);
  });

  it('holds nothing back while the process is inside its share, however small the pieces', async () => {
    const machine = new Machine();
    const governor = machine.governor(0.5);
    for (let piece = 0; piece < 1000; piece += 1) {
      await governor.pace(4096);
      machine.compute(1);
      machine.wallMs += 1.1;
    }
    expect(governor.pausedMs).toBe(0);
  });

  it('adds small pieces up', async () => {
    const machine = new Machine();
    const governor = machine.governor(0.25);
    const per = paceEveryBytes / 4096;
    for (let piece = 0; piece < 400 * per; piece += 1) {
      await governor.pace(4096);
      machine.compute(2 / per);
    }
    expect(machine.cpuMs / machine.wallMs).toBeCloseTo(0.25, 2);
  });

  it('does not rush after a long pause', async () => {
    const machine = new Machine();
    const governor = machine.governor(0.5);
    machine.wallMs += 3_600_000;
    const [wall, cpu] = [machine.wallMs, machine.cpuMs];
    while (machine.wallMs - wall < 10_000) {
      await governor.pace(paceEveryBytes);
      machine.compute(2);
    }
    const saved = 0.5 * paceBurstMs;
    expect(machine.cpuMs - cpu).toBeLessThan(0.5 * 10_000 + saved + 10);
  });

  it('goes on, slowly, while writers alone use more than the share', async () => {
    const machine = new Machine();
    const writing: Clock = { ...machine.clock, sleep: async (ms) => machine.compute(ms) };
    const beside = new Governor({ cores: 0.5, clock: writing, cpuMs: () => machine.cpuMs });
    for (let piece = 0; piece < 100; piece += 1) {
      const before = machine.wallMs;
      await beside.pace(paceEveryBytes);
      machine.compute(2);
      expect(machine.wallMs - before).toBeLessThanOrEqual(paceBurstMs + 2);
    }
    expect(beside.pausedMs).toBeGreaterThan(50 * paceBurstMs);
  });
});

/** Hashes for `ms`; returns processor seconds per second of the whole process, and how much was hashed. */
async function share(ms: number, governor: Governor | null): Promise<{ cores: number; blocks: number }> {
  const block = Buffer.alloc(256 * 1024, 1);
  const key = Buffer.alloc(32, 2);
  const before = process.cpuUsage();
  const start = systemClock.monotonicMs();
  let blocks = 0;
  while (systemClock.monotonicMs() - start < ms) {
    await governor?.pace(block.byteLength);
    leafOf(key, block);
    blocks += 1;
    if (blocks % 16 === 0) await systemClock.turn();
  }
  const { user, system } = process.cpuUsage(before);
  return { cores: (user + system) / 1000 / (systemClock.monotonicMs() - start), blocks };
}

it('keeps a process that hashes to its share of a real processor', async () => {
  const cpuMs = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  };
  const free = await share(1000, null);
  const governor = new Governor({ cores: 0.2, clock: systemClock, cpuMs });
  const paced = await share(2500, governor);
  expect(paced.cores).toBeLessThan(0.28);
  expect(paced.blocks).toBeGreaterThan(0);
  // Unpaced it takes all the machine has left, which others may have cut short.
  expect(free.cores).toBeGreaterThan(1.5 * paced.cores);
}, 20_000);
