/** SIGKILL of process server and agent in the middle of an initial replication: what was durable is not sent a second time. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { blockBytes, touched } from '../faults/resent.ts';
import { MiB, seedOfRun, writeImage } from './content.ts';
import { Scene } from './scene.ts';

const sent = 'tidemark_agent_payload_sent_bytes_total';

/** The last tenth takes its time, so that the kill falls into it. */
const ceiling = { cpuPercent: 25 };

describe('SIGKILL', () => {
  it('at 90 % of an initial replication sends at most 5 % again', { timeout: 120_000 }, async () => {
    const seed = seedOfRun('initial replication');
    const full = 352 * MiB;
    const scene = await Scene.open({
      image: (path) => writeImage(path, full + MiB, full, seed),
      writer: { from: full, pauseMs: 25, sectorsMax: 16 },
    });
    onTestFinished(() => scene.close());
    const { site } = scene;
    const sentNow = async (): Promise<number> => (await site.metric('agent', sent)) ?? 0;
    const received = async (): Promise<number> =>
      (await site.metric('target', 'tidemark_target_plain_bytes_total')) ?? 0;
    await site.startTarget();
    await site.startProcessServer();
    await scene.startLife(ceiling);
    await scene.until('88 %', async () => (await received()) >= 0.88 * full || undefined);
    await site.kill('process-server');
    await systemClock.sleep(300);
    // What neither the target nor anybody else has any more.
    const lost = (await sentNow()) - (await received());
    expect(lost).toBeLessThanOrEqual(0.05 * full);
    await site.startProcessServer();
    await scene.until('92 %', async () => (await sentNow()) - lost >= 0.92 * full || undefined);
    const firstLife = await sentNow();
    await scene.killLife();
    expect(await scene.points()).toEqual([]);
    await scene.startLife();
    const points = await scene.untilPoints('the first point', (listed) => listed.length > 0);
    const inAll = firstLife + (await sentNow());
    const changes = scene.lives.reduce((sum, { writer }) => sum + touched(writer.log, blockBytes), 0) * 4;
    expect(inAll).toBeLessThanOrEqual(full + lost + 0.05 * full + changes);
    expect(await scene.faults(points.slice(0, 1))).toEqual([]);
  });
});
