/** Made-up pipelines in which one station is slowed, and what the roles would say of them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { agentFlow, sessionFlow, targetFlow } from '../../src/control/flow-schemas.ts';
import { bindingStage, type FlowEvidence, stageRemedies } from '../../src/control/stage.ts';
import { limits } from '../../src/limits.ts';

const nobody: FlowEvidence = {
  nowMs: 1_000_000,
  intervalMs: 1000,
  held: null,
  connected: true,
  processServers: 1,
  targetUnreachable: false,
  agent: null,
  session: null,
  target: null,
  unprovenMs: null,
};

/** Milliseconds a batch takes at each; `commit` is once, at the target, and `way` the way to it and back. */
const stations = ['read', 'hash', 'link', 'pool', 'throttle', 'spool', 'farLink', 'disk', 'commit', 'way'] as const;
type Station = (typeof stations)[number];
const stageOf = {
  read: 'capture',
  hash: 'agent',
  link: 'link',
  pool: 'process-server',
  throttle: 'throttle',
  spool: 'spool',
  farLink: 'link',
  disk: 'target',
  commit: 'target',
  way: 'link',
} as const satisfies Record<Station, string>;

interface Line {
  readonly batches: number;
  /** Batches that may be under way between agent and target. */
  readonly window: number;
  readonly ms: Readonly<Record<Station, number>>;
}

/** A line of stations that block one another: each hands a batch over when the next one takes it. */
function run({ batches, window, ms }: Line): FlowEvidence {
  const agent = { readMs: 0, hashMs: 0, sendMs: 0, commitMs: 0 };
  const head = { agentMs: 0, poolMs: 0, targetMs: 0, spoolMs: 0, throttleMs: 0 };
  const durable: number[] = [];
  let [agentFree, linkFree, poolFree, headFree, allowedAt, farFree] = [0, 0, 0, 0, 0, 0];
  let [arrivedSum, sentSum, durableSum] = [0, 0, 0];
  for (let batch = 0; batch < batches; batch += 1) {
    agent.readMs += ms.read;
    agent.hashMs += ms.hash;
    const ready = agentFree + ms.read + ms.hash;
    agentFree = Math.max(ready, linkFree, durable[batch - window] ?? 0);
    agent.sendMs += agentFree - ready;
    linkFree = agentFree + ms.link;
    poolFree = Math.max(linkFree, poolFree) + ms.pool;
    head.agentMs += Math.max(0, linkFree - headFree);
    const taken = Math.max(linkFree, headFree);
    head.poolMs += Math.max(0, poolFree - taken);
    const sealed = Math.max(taken, poolFree);
    const allowed = Math.max(sealed, allowedAt) + ms.throttle;
    allowedAt = allowed;
    head.throttleMs += allowed - sealed;
    head.spoolMs += ms.spool;
    headFree = Math.max(allowed + ms.spool, farFree, durable[batch - Math.ceil(window / 2)] ?? 0);
    head.targetMs += headFree - allowed - ms.spool;
    farFree = headFree + ms.farLink;
    durable.push(Math.max(farFree, durable[batch - 1] ?? 0) + ms.disk);
    sentSum += headFree;
    arrivedSum += farFree;
    durableSum += durable[batch] ?? 0;
  }
  const [sentMs, durableMs] = [agentFree, durable.at(-1) ?? 0];
  const committedMs = durableMs + ms.commit + ms.way;
  agent.commitMs = committedMs - sentMs;
  const windowMs = committedMs;
  return {
    ...nobody,
    nowMs: committedMs,
    intervalMs: committedMs,
    agent: agentFlow.parse({ cycle: { cutMs: 0, sentMs, durableMs, committedMs }, waits: { windowMs, ...agent } }),
    session: sessionFlow.parse({
      machine: 'm1',
      waits: { windowMs, ...head },
      durableMs: (durableSum - sentSum) / batches,
    }),
    target: targetFlow.parse({ batchMs: (durableSum - arrivedSum) / batches, commitMs: ms.commit }),
  };
}

const slowed = (slow: Station, times: number, batches: number, window: number): FlowEvidence => {
  const quick = Object.fromEntries(stations.map((station) => [station, 1])) as Record<Station, number>;
  // Once a cycle, so as long as all its batches together would take elsewhere.
  const perCycle = slow === 'commit' || slow === 'way' ? batches : 1;
  return run({ batches, window, ms: { ...quick, [slow]: 20 * times * perCycle } });
};

describe('the binding stage', () => {
  const line = [
    fc.integer({ min: 1, max: 50 }),
    fc.integer({ min: 1, max: 400 }),
    fc.integer({ min: 2, max: 32 }),
  ] as const;

  it.each(stations)('is the one that was slowed: %s', (slow) => {
    fc.assert(
      fc.property(...line, (times, batches, window) => {
        expect(bindingStage(slowed(slow, times, batches, window))?.name).toBe(stageOf[slow]);
      }),
    );
  });

  it('is found by waits alone while the first cycle has not ended, and by times alone where nobody tells of waits', () => {
    fc.assert(
      fc.property(...line, fc.constantFrom('read', 'hash', 'link', 'pool', 'disk'), (times, batches, _window, slow) => {
        // A window that fills: else nothing waits for what is slow.
        const all = slowed(slow, times, batches + 64, 2);
        const running = { ...all, agent: all.agent && { ...all.agent, cycle: null } };
        expect(bindingStage(running)?.name).toBe(stageOf[slow]);
      }),
    );
    const times = (sentMs: number, durableMs: number): FlowEvidence => ({
      ...nobody,
      agent: agentFlow.parse({ cycle: { cutMs: 0, sentMs, durableMs, committedMs: 1000 } }),
    });
    expect(bindingStage(times(900, 950))?.name).toBe('agent');
    expect(bindingStage(times(50, 950))?.name).toBe('target');
    expect(bindingStage(times(50, 100))?.name).toBe('target');
  });

  it('is that of the point in flight, as soon as that is slower than the last one was', () => {
    const cycle = { cutMs: 0, sentMs: 800, durableMs: 850, committedMs: 900 };
    const open = (agoMs: number) => ({
      ...nobody,
      agent: agentFlow.parse({ cycle, open: { cutMs: nobody.nowMs - agoMs, sentMs: nobody.nowMs - agoMs + 10 } }),
    });
    expect(bindingStage(open(899))?.name).toBe('agent');
    const late = bindingStage(open(5000));
    expect(late?.name).toBe('target');
    expect(late?.why).toBe('the point in flight took 5 s of 5 s from sent to durable');
  });

  it('is none while cycles are short and nothing waits, and none where nobody says anything', () => {
    const short = agentFlow.parse({
      cycle: { cutMs: 0, sentMs: 10, durableMs: 20, committedMs: limits.control.bindingShare * 1000 - 1 },
      waits: { windowMs: 10_000, readMs: 100, hashMs: 100, sendMs: 1000, commitMs: 1000 },
    });
    expect(bindingStage({ ...nobody, agent: short })).toBeNull();
    // Committed long ago: what is under way since is known by its waits alone.
    const waits = { windowMs: 10_000, readMs: 5000, hashMs: 0, sendMs: 0, commitMs: 0 };
    const since = (nowMs: number) => bindingStage({ ...nobody, nowMs, agent: { ...short, waits } })?.name;
    expect([since(2249), since(2250)]).toEqual([undefined, 'capture']);
    expect(bindingStage(nobody)).toBeNull();
    expect(
      bindingStage({ ...nobody, agent: agentFlow.parse({}), session: sessionFlow.parse({ machine: 'm1' }) }),
    ).toBeNull();
    expect(bindingStage({ ...nobody, connected: null, unprovenMs: limits.control.proofGraceMs })).toBeNull();
  });

  it('is the proof where points come in time and wait for it', () => {
    const unprovenMs = limits.control.proofGraceMs + 1;
    expect(bindingStage({ ...nobody, unprovenMs })?.name).toBe('proof');
    expect(bindingStage({ ...slowed('read', 1, 10, 2), unprovenMs })?.name).toBe('capture');
  });

  it('is who stopped, or who can not be reached', () => {
    expect(bindingStage({ ...slowed('disk', 1, 10, 2), held: 'replication is paused' })).toEqual({
      name: 'agent',
      why: 'replication is paused',
    });
    const away = { ...nobody, connected: false };
    expect(bindingStage(away)?.name).toBe('link');
    expect(bindingStage({ ...away, processServers: 0 })?.name).toBe('process-server');
    expect(bindingStage({ ...away, targetUnreachable: true })?.name).toBe('target');
    const session = sessionFlow.parse({ machine: 'm1', target: { reachable: false, sinceMs: 0 } });
    expect(bindingStage({ ...nobody, session })?.name).toBe('target');
    // Another machine's trouble, as long as this one has a session.
    expect(bindingStage({ ...nobody, targetUnreachable: true })).toBeNull();
  });

  it('has a remedy each', () => {
    for (const remedy of Object.values(stageRemedies)) expect(remedy).toMatch(/./);
    expect(Object.keys(stageRemedies)).toEqual(expect.arrayContaining(Object.values(stageOf)));
  });
});
