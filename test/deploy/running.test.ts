/**
 * A running site under a real Prometheus: every role exports exactly what METRICS.md says, every panel of every dashboard shows something, and
 * taking the target away fires the alerts that should tell of it. One site for all of it, in this order: as it is when all is well, then in trouble.
 */
import { symlink } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { commandOk } from '../../scripts/demo/process.ts';
import { failoversOf } from '../../src/store/failover-ids.ts';
import { documentedSeries, valuesOf } from '../observe/documented.ts';
import { roles, type RoleName } from '../observe/declared.ts';
import { command } from '../product/command.ts';
import { MiB, seedOfRun, writeImage } from '../product/content.ts';
import { disk, machine, Scene } from '../product/scene.ts';
import { requireTool } from '../tools.ts';
import { readDashboards } from './deployed.ts';
import { exposed } from './exposition.ts';
import { Prometheus, type FiringAlert } from './prometheus.ts';

/** Queries that give nothing while all is well, and why. Each is seen to give something in trouble. */
const onlyInTrouble: ReadonlyMap<string, string> = new Map([
  ['machine: Comparison by checksum #A', 'no disk is compared'],
  ['machine: Comparison by checksum #B', 'no disk is compared'],
  ['machine: Next attempt in', 'the agent has a session, which outlives the target, but not itself'],
  ['machine: What binds', 'nothing binds'],
  ['process-server: Oldest waiting point', 'nothing waits'],
  ['process-server: Points without an answer #A', 'nothing waits'],
  ['process-server: Sessions that ended', 'the first session goes on'],
  ['process-server: Waiting, by machine', 'nothing waits'],
  ['site: Foreseen breach', 'none is foreseen'],
  ['site: Storage faults', 'the system refused nothing'],
  ['site: What binds', 'nothing binds'],
]);

/** Queries of what a target knows ten minutes after its start, after its first fold. */
const onlyLater: ReadonlyMap<string, string> = new Map([
  ['site: Stored #A', 'as of the last fold'],
  ['site: Stored #B', 'as of the last fold'],
]);

const jobOf = (role: RoleName): string => `tidemark-${role}`;
const site = { scene: null as Scene | null, prometheus: null as Prometheus | null };

function running(): { scene: Scene; prometheus: Prometheus } {
  const { scene, prometheus } = site;
  if (!scene || !prometheus) throw new Error('the site did not start');
  return { scene, prometheus };
}

async function metricsOf(role: RoleName): Promise<string> {
  return running().scene.site.role(role).where('metrics');
}

async function scrapeAll(): Promise<void> {
  const where = new Map<string, string>();
  for (const role of roles) where.set(jobOf(role), new URL(await metricsOf(role)).host);
  await running().prometheus.scrape(where);
}

/** A query as Grafana would send it, for all values of its variables. */
function asked(expr: string): string {
  return expr.replaceAll('$__rate_interval', '2s').replaceAll(/\$(?:machine|instance)\b/g, '.*');
}

/** `dashboard: panel` (or `dashboard: panel #B`) of every query that gives nothing. */
async function silentQueries(): Promise<string[]> {
  const { prometheus } = running();
  const silent: string[] = [];
  for (const [name, { panels }] of readDashboards()) {
    const dashboard = name.replace(/^.*\/|\.json$/g, '');
    for (const { title, targets = [] } of panels)
      for (const { refId, expr, instant = false } of targets)
        if ((await prometheus.seriesOf(asked(expr), { now: instant })) === 0)
          silent.push(`${dashboard}: ${title}${targets.length > 1 ? ` #${refId}` : ''}`);
  }
  return silent;
}

/** Waits until there is something on all queries of which `wanted` says that there should be. */
async function untilShown(wanted: (name: string) => boolean, ms: number): Promise<void> {
  let silent: string[] = [];
  const attempt = async (): Promise<true | undefined> => {
    silent = (await silentQueries()).filter(wanted);
    return silent.length === 0 || undefined;
  };
  await running()
    .scene.until('data on every panel', attempt, ms)
    .catch((cause: unknown) => {
      throw new Error(`nothing on ${silent.join('; ')}`, { cause });
    });
}

const namesOf = (alerts: readonly FiringAlert[]): string[] => alerts.map(({ labels }) => labels['alertname'] ?? '');

async function untilFiring(expected: readonly string[], ms: number): Promise<readonly FiringAlert[]> {
  const { scene, prometheus } = running();
  const attempt = async (): Promise<readonly FiringAlert[] | undefined> => {
    const firing = await prometheus.firing();
    return expected.every((name) => namesOf(firing).includes(name)) ? firing : undefined;
  };
  return scene.until(expected.join(', '), attempt, ms);
}

/** Has the system refuse the target something that it looks at every few seconds: its failovers, which are not there, are a link to itself. */
async function failSomeFile(scene: Scene): Promise<void> {
  const path = failoversOf(scene.site.targetData, machine);
  await symlink(path, path);
}

describe.skipIf(!requireTool('prometheus'))('a running site', { timeout: 60_000 }, () => {
  beforeAll(async () => {
    const prometheus = await Prometheus.start();
    site.prometheus = prometheus;
    const scene = await Scene.open({
      image: (path) => writeImage(path, 16 * MiB, 8 * MiB, seedOfRun('metrics')),
      writer: { from: 8 * MiB, pauseMs: 10, sectorsMax: 16 },
      site: { reporting: true },
    });
    site.scene = scene;
    // Control hears of points every five seconds, so a nearer target than this would look breached.
    const words = ['--interval-seconds', '1', '--rpo-target-seconds', '12'];
    await commandOk(command, ['protect', machine, '--disk', disk, ...words, ...scene.site.operator]);
    await scene.site.startTarget();
    await scene.site.startProcessServer();
  });

  afterAll(async () => {
    await site.scene?.close();
    await site.prometheus?.close();
  });

  it('leaves out what nobody knows yet', async () => {
    const { samples } = await exposed(await metricsOf('control'));
    const named = samples.filter(({ labels }) => labels['machine'] === machine).map(({ name }) => name);
    expect(named).toContain('tidemark_machine_rpo_interval_seconds');
    expect(named.filter((name) => /point|behind|drain|churn/.test(name))).toEqual([]);
  });

  it('has every role export what METRICS.md says, and nothing else', async () => {
    const { scene } = running();
    await scene.startLife({ cpuPercent: 300, memoryMiB: 512 });
    await scrapeAll();
    await scene.until(
      'a proven point',
      async () => (await scene.points()).some(({ provenMs }) => provenMs !== null) || undefined,
    );
    for (const role of roles) {
      const { declared, samples } = await exposed(await metricsOf(role));
      const listed = documentedSeries.filter((series) => series.roles.includes(role));
      expect(new Map([...declared].sort())).toEqual(
        new Map(listed.map(({ name, type, meaning }): [string, object] => [name, { type, help: meaning }]).sort()),
      );
      for (const { name, labels, value } of samples) {
        const series = listed.find((one) => one.name === name);
        expect(Object.keys(labels).sort(), name).toEqual([...(series?.labels ?? [])].sort());
        for (const [label, held] of Object.entries(labels)) {
          const values = valuesOf(name, label)[0]?.values ?? null;
          if (values !== null) expect([...values], `${name}{${label}}`).toContain(held);
        }
        expect(Number.isFinite(value), name).toBe(true);
        if (series?.unit === 'Unix time') expect(value, name).toBeGreaterThan(1e9);
        if (series?.unit === 'Unix time') expect(value, name).toBeLessThan(1e10);
        if (series?.unit === '0 or 1') expect([0, 1], name).toContain(value);
      }
    }
  });

  it('shows something on every panel, and no alert while all is well', async () => {
    const { prometheus } = running();
    await untilShown((name) => !onlyInTrouble.has(name) && !onlyLater.has(name), 20_000);
    expect(await prometheus.valuesOf('tidemark_machine_rpo_interval_seconds', 'machine')).toEqual([machine]);
    expect(namesOf(await prometheus.firing())).toEqual([]);
  });

  it('fires when the target is cut off, shows something on the panels of trouble then, and calms down', async () => {
    const { scene, prometheus } = running();
    await failSomeFile(scene);
    await untilFiring(['TidemarkStorageFault'], 15_000);
    await untilShown((name) => name === 'site: Storage faults', 20_000);
    await scene.site.kill('target');
    await commandOk(command, ['resync', machine, '--disk', disk, ...scene.site.operator]);
    const alerts = await untilFiring(
      ['TidemarkScrapeMissing', 'TidemarkTargetUnreachable', 'TidemarkRpoBreached'],
      30_000,
    );
    const of = (name: string): FiringAlert | undefined => alerts.find(({ labels }) => labels['alertname'] === name);
    expect(of('TidemarkScrapeMissing')?.labels).toMatchObject({ job: jobOf('target'), severity: 'critical' });
    expect(of('TidemarkRpoBreached')?.annotations['summary']).toMatch(new RegExp(`of ${machine} is \\d+`));
    for (const { annotations } of alerts)
      for (const text of Object.values(annotations)) expect(text).not.toMatch(/<no value>|%!/);
    const [ended, tried] = ['process-server: Sessions that ended', 'machine: Next attempt in'];
    await untilShown((name) => onlyInTrouble.has(name) && name !== ended && name !== tried, 20_000);
    await scene.endLife();
    await untilShown((name) => name === ended, 20_000);
    await scene.startLife();
    await scrapeAll();
    await untilShown((name) => name === tried, 20_000);
    await scene.site.startTarget();
    await scene.until(
      'the end of the alert',
      async () => !namesOf(await prometheus.firing()).includes('TidemarkTargetUnreachable') || undefined,
      20_000,
    );
  });
});
