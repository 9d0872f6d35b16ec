import { describe, expect, it } from 'vitest';
import { agentConfig, type AgentConfig } from '../../src/config.ts';
import { policySchema, type Policy } from '../../src/control/schemas.ts';
import { AgentPolicy } from '../../src/main/agent-policy.ts';
import { ResyncRequests } from '../../src/main/resync-requests.ts';

function configured(own: object = {}): AgentConfig {
  const agent = { machine: 'web1', processServer: 'ps', disks: [{ name: 'vda', image: '/a', port: 0 }], ...own };
  return agentConfig({ environment: {}, flags: { agent } });
}

describe('what an agent goes by', () => {
  const noon = Date.parse('2026-01-01T12:00:00Z');

  it('is its own configuration, then the policy as it stands now, then the usual', () => {
    let told: Policy | null = null;
    const alone = new AgentPolicy(configured(), () => told);
    const stubborn = new AgentPolicy(configured({ intervalSeconds: 9, resyncAtDirtyPercent: 'never' }), () => told);
    expect([alone.intervalMs, alone.resyncAtDirtyRatio, alone.appEveryMs, alone.compression]).toEqual([
      ...[5000, 0.5, null, 'lz4'],
    ]);
    told = policySchema.parse({ intervalSeconds: 30, resyncAtDirtyPercent: 20, appConsistentHours: 2 });
    expect([alone.intervalMs, alone.resyncAtDirtyRatio, alone.appEveryMs]).toEqual([30_000, 0.2, 7_200_000]);
    expect([stubborn.intervalMs, stubborn.resyncAtDirtyRatio]).toEqual([9000, Infinity]);
  });

  it('is open at any time without a window, and follows a window that is changed', () => {
    let told = policySchema.parse({});
    const policy = new AgentPolicy(configured(), () => told);
    expect(policy.resyncWindow(noon)).toEqual({ open: true });
    told = policySchema.parse({ resyncWindow: '22:00-06:00', resyncTimeZone: 'Europe/Berlin' });
    expect(policy.resyncWindow(noon)).toEqual({ open: false, opensAtMs: Date.parse('2026-01-01T21:00:00Z') });
    told = policySchema.parse({ resyncWindow: '22:00-06:00', resyncTimeZone: 'Asia/Kolkata' });
    expect(policy.resyncWindow(noon)).toEqual({ open: false, opensAtMs: Date.parse('2026-01-01T16:30:00Z') });
    expect(policy.resyncWindow(Date.parse('2026-01-01T16:30:00Z'))).toEqual({ open: true });
    const none = new AgentPolicy(configured({ resyncWindow: 'none' }), () => told);
    expect(none.resyncWindow(noon)).toEqual({ open: true });
  });
});

describe('what control asks an agent to compare', () => {
  const running = { reason: 'requested', phase: 'hashing', doneBytes: 0, totalBytes: 1, opensAtMs: null } as const;
  const reported = (...disks: { resync?: typeof running | null; newestPoint?: number | null }[]) => ({
    disks: disks.map(({ resync = null, newestPoint = 1 }, index) => ({
      ...{ disk: `d${index}`, size: 1, lagBytes: 0, newestPoint, resync, logFailure: null },
    })),
  });
  const both = [
    { name: 'd0', now: true },
    { name: 'd1', now: false },
  ];

  it('is begun once, at once or in its window, however often control repeats it', () => {
    const begun: unknown[] = [];
    const requests = new ResyncRequests((request) => begun.push(request));
    expect([1, 2, 3].map(() => requests.take({ id: 4, disks: both }))).toEqual([true, false, false]);
    expect(begun).toEqual([
      { disks: ['d0'], now: true },
      { disks: ['d1'], now: false },
    ]);
    requests.take({ id: 5, disks: [{ name: 'd1', now: true }] });
    expect(begun.slice(2)).toEqual([{ disks: ['d1'], now: true }]);
  });

  it('is done when every disk of it has its point, and not begun again while control has not heard', () => {
    const begun: unknown[] = [];
    const requests = new ResyncRequests((request) => begun.push(request));
    expect(requests.done(reported({}, {}))).toBeNull();
    requests.take({ id: 4, disks: both });
    expect(requests.done(reported({ resync: running }, { resync: running }))).toBeNull();
    expect(requests.done(reported({}, { resync: running }))).toBeNull();
    expect(requests.done(reported({}, {}))).toBe(4);
    requests.take({ id: 4, disks: both });
    expect(begun).toHaveLength(2);
    expect(requests.done(reported({}, {}))).toBe(4);
  });

  it('is not done while a session has not said what the target has', () => {
    const requests = new ResyncRequests(() => undefined);
    requests.take({ id: 4, disks: both });
    expect(requests.done(reported({ newestPoint: null }, {}))).toBeNull();
    expect(requests.done(reported({}, {}))).toBe(4);
  });

  it('does not wait for a disk that is not captured here', () => {
    const requests = new ResyncRequests(() => undefined);
    requests.take({ id: 4, disks: both });
    expect(requests.done(reported({}))).toBe(4);
  });
});
