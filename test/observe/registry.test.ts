import { describe, expect, it } from 'vitest';
import { registerProcessSeries } from '../../src/observe/metrics.ts';
import { createRegistry, type SeriesDeclaration } from '../../src/observe/registry.ts';

const gauge = { name: 'tidemark_agent_lag_bytes', help: 'Lag.', type: 'gauge', labels: ['machine', 'disk'] } as const;
const plain = { name: 'tidemark_target_newest_timestamp_seconds', help: 'Newest.', type: 'gauge', labels: [] } as const;
const counter = {
  name: 'tidemark_ps_received_bytes_total',
  help: 'Bytes.',
  type: 'counter',
  labels: ['stage'],
} as const;
const histogram = {
  name: 'tidemark_ps_stage_seconds',
  help: 'Time.',
  type: 'histogram',
  labels: ['stage'],
  buckets: [0.1, 1],
} as const;

describe('metric registry', () => {
  it('leaves unknown values out instead of saying 0', async () => {
    const registry = createRegistry();
    const lag = registry.gauge(gauge);
    const newest = registry.gauge(plain);
    const samples = async () =>
      (await registry.expose()).text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    expect(await samples()).toEqual([]);
    lag.set({ machine: 'm', disk: 'd' }, 0);
    newest.set({}, 12);
    expect(await samples()).toEqual([
      'tidemark_agent_lag_bytes{machine="m",disk="d"} 0',
      'tidemark_target_newest_timestamp_seconds 12',
    ]);
    lag.set({ machine: 'm', disk: 'd' }, undefined);
    newest.set({}, Number.NaN);
    expect(await samples()).toEqual([]);
  });

  it('shows of a sampled series exactly the last sample', async () => {
    const registry = createRegistry();
    let bytes: number | undefined = 5;
    let machines = ['a', 'b'];
    registry.sampled({ ...counter, labels: [] }, () => [{ labels: {}, value: bytes }]);
    registry.sampled(gauge, () => machines.map((machine) => ({ labels: { machine, disk: 'd' }, value: 1 })));
    expect((await registry.expose()).text).toContain('tidemark_ps_received_bytes_total 5\n');
    expect((await registry.expose()).text).toContain('tidemark_ps_received_bytes_total 5\n');
    bytes = undefined;
    machines = ['b'];
    const { text } = await registry.expose();
    expect(text).not.toMatch(/^tidemark_ps_received_bytes_total/m);
    expect(text).not.toContain('machine="a"');
    expect(text).toContain('machine="b"');
  });

  it('asks once per scrape, and shows nothing of an answer that did not come', async () => {
    const registry = createRegistry();
    let asked = 0;
    const answer = registry.asked(async () => {
      asked += 1;
      if (asked === 2) throw new Error('not now');
      return asked;
    });
    registry.sampled(plain, () => [{ labels: {}, value: answer() }]);
    registry.sampled({ ...plain, name: 'tidemark_other' }, () => [{ labels: {}, value: answer() }]);
    const samples = async () => (await registry.expose()).text.match(/^tidemark_.*$/gm);
    expect(await samples()).toEqual(['tidemark_target_newest_timestamp_seconds 1', 'tidemark_other 1']);
    expect(await samples()).toBeNull();
    expect(await samples()).toEqual(['tidemark_target_newest_timestamp_seconds 3', 'tidemark_other 3']);
  });

  it('counts and observes', async () => {
    const registry = createRegistry();
    const bytes = registry.counter(counter);
    bytes.add({ stage: 'hash' }, 3);
    bytes.add({ stage: 'hash' });
    registry.histogram(histogram).observe({ stage: 'hash' }, 0.5);
    const { text, contentType } = await registry.expose();
    expect(text).toContain('tidemark_ps_received_bytes_total{stage="hash"} 4');
    expect(text).toContain('tidemark_ps_stage_seconds_bucket{le="1",stage="hash"} 1');
    expect(contentType).toContain('text/plain');
  });

  it.each<[string, Partial<SeriesDeclaration>]>([
    ['prefix', { name: 'agent_lag_bytes' }],
    ['base unit', { name: 'tidemark_agent_lag_ms' }],
    ['base unit', { name: 'tidemark_agent_lag_mib' }],
    ['base unit', { name: 'tidemark_agent_done_percent' }],
    ['ages', { name: 'tidemark_agent_point_age_seconds' }],
    ['a gauge is no total', { name: 'tidemark_agent_lag_total' }],
    ['reserved', { name: 'tidemark_agent_lag_count' }],
    ['closed list of labels', { labels: ['pid'] }],
    ['a label twice', { labels: ['machine', 'machine'] }],
    ['help', { help: '' }],
    ['type', { type: 'counter' }],
  ])('refuses at registration: %s %o', (_why, wrong) => {
    expect(() => createRegistry().gauge({ ...gauge, ...wrong })).toThrow('invariant broken');
  });

  it('refuses a counter without _total, a histogram without unit, a series twice, label values from open sets', () => {
    const registry = createRegistry();
    expect(() => registry.counter({ ...counter, name: 'tidemark_x_bytes' })).toThrow('_total');
    expect(() => registry.histogram({ ...histogram, name: 'tidemark_x' })).toThrow('unit');
    const made = registry.counter(counter);
    expect(() => registry.counter(counter)).toThrow();
    expect(() => made.add({ stage: 'no such file: /a/b' })).toThrow('closed set');
  });

  it('knows the process', async () => {
    const registry = createRegistry();
    const measured = registerProcessSeries(registry, 5000);
    const { text } = await registry.expose();
    measured.close();
    expect(Number(/^tidemark_process_resident_memory_bytes (\d+)$/m.exec(text)?.[1])).toBeGreaterThan(1e6);
    expect(Number(/^tidemark_process_cpu_user_seconds_total ([\d.]+)$/m.exec(text)?.[1])).toBeGreaterThan(0);
    expect(text).toMatch(/^tidemark_process_start_timestamp_seconds 5$/m);
  });
});
