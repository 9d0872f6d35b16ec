/** What a scrape says of the check of what is stored. */
import { expect, test } from 'vitest';
import { createRegistry } from '../../src/observe/registry.ts';
import { registerTargetSeries } from '../../src/target/metrics.ts';
import { frameType } from '../../src/wire/frame.ts';
import { TargetSite } from './peer.ts';

test('coverage and age are absent until they are known', async () => {
  const site = await TargetSite.start();
  try {
    const registry = createRegistry();
    registerTargetSeries(registry, site.target, async () => 4096);
    const { peer, disk } = await site.session();
    const before = (await registry.expose()).text;
    expect(before).not.toMatch(/^tidemark_scrub_\w+\{/mu);
    const seq = peer.cycle(disk);
    peer.sealed(disk, seq, 3);
    await peer.next(frameType.durable);
    peer.point(Buffer.from(site.store().disks[0]?.leaves.workingRoot() ?? []).toString('hex'), [seq]);
    await peer.next(frameType.committed);
    expect((await registry.expose()).text).toMatch(/^tidemark_scrub_coverage_ratio\{machine="m1"\} 0$/mu);
    await site.target.scrubbers().get('m1')?.pass();
    const { text } = await registry.expose();
    expect(text).toMatch(/^tidemark_scrub_coverage_ratio\{machine="m1"\} 1$/mu);
    expect(text).toMatch(/^tidemark_scrub_oldest_check_timestamp_seconds\{machine="m1"\} \d{10}/mu);
    expect(text).toMatch(/^tidemark_target_scrubbed_bytes_total [1-9]/mu);
  } finally {
    await site.remove();
  }
});
