/**
 * The whole path with one stage slowed: what the roles really report must lead control to that stage. Each story writes more than an interval can carry
 * and has the roles report twice, because most of what they say is about the time since the report before.
 */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { machineSchema, policySchema } from '../../src/control/schemas.ts';
import { storedReport, type Report } from '../../src/control/report-schemas.ts';
import { judge } from '../../src/control/status.ts';
import type { StatusReport } from '../../src/control/status-schemas.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { reportOf } from '../../src/main/agent-report.ts';
import type { Parts } from '../../src/main/parts.ts';
import { ProcessServerReporter } from '../../src/main/process-server-report.ts';
import { TargetReporter } from '../../src/main/target-report.ts';
import { compareChecksums } from '../../src/process-server/compare-checksums.ts';
import type { Sealer } from '../../src/process-server/pool.ts';
import { sealBatch } from '../../src/process-server/seal-batch.ts';
import { Site, type SiteOptions } from './site.ts';
import { clock, machine } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const blockSize = 4096;
const size = 2_000_896;
const slowMs = 300;
const sites: Site[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.remove();
});

/** With a first point, so that the disk is steady. */
async function started(options: Partial<SiteOptions> = {}): Promise<Site> {
  const site = await Site.started({ blockSize, sizes: [size], intervalMs: 200, ...options });
  sites.push(site);
  await site.point();
  return site;
}

/** What control judges from what the roles say now. */
class Onlooker {
  readonly #site: Site;
  readonly #processServer = new ProcessServerReporter();
  readonly #target = new TargetReporter();

  constructor(site: Site) {
    this.#site = site;
    this.look();
  }

  look(paused = false): StatusReport['machines'][number] | undefined {
    const { agent, processServer, target } = this.#site;
    const nowMs = clock.wallMs();
    const said: [string, Report][] = [];
    if (agent) {
      const report = agent.agent.report();
      const consistency = new Map([['vd0', 'crash'] as const]);
      const rest = { version: 'test', atMs: nowMs, timeZone: 'UTC', resyncDone: null, owed: null, faults: [] };
      said.push([machine, reportOf({ report, consistency, ...rest })]);
    }
    if (processServer) {
      const address = { host: 'target', port: 9444 };
      said.push(['ps1', this.#processServer.make({ server: processServer, target: address, version: 'test', nowMs })]);
    }
    if (target) said.push(['t1', this.#target.make({ clock, version: 'test' } as Parts, target.target, true, 1e12)]);
    const reports = said.map(([name, report]) => storedReport.parse({ name, receivedMs: nowMs, report }));
    const policies = new Map([['default', policySchema.parse({ intervalSeconds: 1 })]]);
    const protectedOnes = [{ name: machine, ...machineSchema.parse({ paused, disks: [{ name: 'vd0' }] }) }];
    return judge({ nowMs, machines: protectedOnes, policies, reports, resyncs: new Map() }).machines[0];
  }
}

/** Writes all over the disk, over and over, for `ms`. */
async function writeFor(site: Site, ms: number): Promise<void> {
  const endMs = systemClock.monotonicMs() + ms;
  for (let block = 0; systemClock.monotonicMs() < endMs; block += 7) {
    await site.write(0, ((block * blockSize) % (size - blockSize)) & ~511, systemRandom.bytes(blockSize));
    if (block % 70 === 0) await systemClock.sleep(1);
  }
}

async function stageWhileWriting(site: Site): Promise<StatusReport['machines'][number] | undefined> {
  await writeFor(site, 200);
  const onlooker = new Onlooker(site);
  await writeFor(site, 1200);
  return onlooker.look();
}

describe('the stage that binds', () => {
  test('none: points come in time', async () => {
    const site = await started();
    const onlooker = new Onlooker(site);
    await site.point();
    const seen = onlooker.look();
    expect(seen?.stage).toBeNull();
    expect(seen?.heardMs.agent).not.toBeNull();
  });

  test('target: its disk syncs slowly', async () => {
    const site = await started();
    if (site.target) {
      site.target.files.trouble = (operation) =>
        operation === 'datasync' || operation === 'writeSync' ? systemClock.sleep(slowMs) : undefined;
    }
    const seen = await stageWhileWriting(site);
    expect(seen?.stage?.name, JSON.stringify(seen)).toBe('target');
  });

  test('process-server: its workers are slow', async () => {
    const sealer: Sealer = {
      pending: 0,
      seal: async (task) => {
        const mine = { ...task, buffer: task.buffer.transfer() };
        await systemClock.sleep(slowMs);
        return sealBatch(mine, clock);
      },
      compare: (task) => Promise.resolve(compareChecksums(task, clock)),
    };
    const site = await started({ sealer });
    const seen = await stageWhileWriting(site);
    expect(seen?.stage?.name, JSON.stringify(seen)).toBe('process-server');
  });

  test('link: what lies between agent and process server is slow', async () => {
    const site = new Site({ blockSize, sizes: [size], intervalMs: 200 });
    sites.push(site);
    site.agentHop.delayMs = 40;
    site.agentHop.bufferBytes = 0;
    await site.startTarget();
    site.newProcessServer();
    await site.startAgent();
    await site.point();
    const seen = await stageWhileWriting(site);
    expect(seen?.stage?.name, JSON.stringify(seen)).toBe('link');
  });

  test('agent: it is paused', async () => {
    const site = await started();
    site.held = 'replication is paused';
    await site.until(() => site.agent?.agent.report().state === 'paused', 'paused');
    const onlooker = new Onlooker(site);
    expect(onlooker.look(true)?.stage).toEqual({ name: 'agent', why: 'replication is paused' });
  });

  test('target: it is away', async () => {
    const site = await started();
    await site.endTarget('crash');
    await writeFor(site, 500);
    const onlooker = new Onlooker(site);
    await site.until(() => onlooker.look()?.stage?.name === 'target', 'the target is named');
  });
});
