/** Spools of a process server that is started with another number of processes than before: what waited drains, and nothing stays behind. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { MiB } from '../../src/kit/sizes.ts';
import { carrySpools, spoolPlace } from '../../src/main/spool-places.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { ProcessServerOptions } from '../../src/process-server/server.ts';
import { Here } from './spool-world.ts';

type Mutable = { -readonly [K in keyof ProcessServerOptions]-?: ProcessServerOptions[K] };
const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

it.each([
  { what: 'one process to two', from: 0, to: 1, of: 2 },
  { what: 'two processes to one', from: 2, to: 0, of: 1 },
  { what: 'four processes to two', from: 3, to: 1, of: 2 },
  { what: 'two processes to four', from: 2, to: 2, of: 4 },
])('from $what: the target gets what waited, and the agent goes on', async ({ from, to, of }) => {
  const change: Partial<Pick<Mutable, 'spool'>> = {};
  const site = new Here(64 * MiB, change);
  ends.push(() => site.remove());
  const startAs = async (index: number): Promise<void> => {
    change.spool = { directory: spoolPlace(site.directory, index), bytesMax: 64 * MiB, files: posixFiles };
    await site.restart();
  };
  await startAs(from);
  const sending = await site.agent().open();
  site.target.goAway();
  await sending.whole(6);
  await site.spooled(6);
  site.server.close();
  await site.server.settled();
  await carrySpools(posixFiles, site.directory, of);
  await startAs(to);
  await site.until(() => site.server.spoolReport().machines[0]?.draining === true, 'found');
  site.target.away = false;
  await site.until(() => site.server.spoolReport().machines.length === 0, 'drained');
  expect(site.target.stored).toEqual(sending.sent);
  expect(site.target.points).toHaveLength(1);
  expect(site.target.faults).toEqual([]);
  expect((await site.agent().open()).agent.error).toBeUndefined();
});

it('keeps what a process of this start has, drops what is older, and nothing stays in places that are nobody’s', async () => {
  const spool = mkdtempSync(path.join(tmpdir(), 'tidemark-places-'));
  ends.push(() => rmSync(spool, { recursive: true, force: true }));
  const put = (place: string, machine: string): void => {
    mkdirSync(path.join(place, machine), { recursive: true });
    writeFileSync(path.join(place, machine, '0000000001.spool'), place);
  };
  const there = (): string[] =>
    readdirSync(spool, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.spool'))
      .map((name) => `${name} of ${path.basename(readFileSync(path.join(spool, name), 'utf8'))}`)
      .sort();
  const alone = path.basename(spool);
  put(spoolPlace(spool, 1), 'm1');
  put(spoolPlace(spool, 2), 'm2');
  put(spoolPlace(spool, 3), 'm1');
  put(spoolPlace(spool, 3), 'm2');
  put(spoolPlace(spool, 12), 'm3');
  put(spool, 'm2');
  // A machine may have this name.
  put(spool, 'shard-1');
  await carrySpools(posixFiles, spool, 2);
  const two = [
    '+shard-1/m1/0000000001.spool of +shard-1',
    '+shard-1/m3/0000000001.spool of +shard-12',
    `+shard-1/shard-1/0000000001.spool of ${alone}`,
    '+shard-2/m2/0000000001.spool of +shard-2',
  ];
  expect(there()).toEqual(two);
  expect(readdirSync(spool).sort()).toEqual(['+shard-1', '+shard-2']);
  await carrySpools(posixFiles, spool, 2);
  expect(there()).toEqual(two);
  await carrySpools(posixFiles, spool, 1);
  expect(readdirSync(spool).sort()).toEqual(['m1', 'm2', 'm3', 'shard-1']);
  await carrySpools(posixFiles, path.join(spool, 'of nobody yet'), 3);
  expect(readdirSync(spool)).toHaveLength(4);
});
