/** The way back from leases: a site that gave up control releases its machines at the target, by the command's own code. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { releaseMachine } from '../../src/main/release.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { askTarget } from '../../src/target/admin-client.ts';
import { startAdmin, type Admin } from '../../src/target/admin.ts';
import { frameType } from '../../src/wire/frame.ts';
import { decodeErrorMessage } from '../../src/wire/error.ts';
import { silent, TargetSite } from './peer.ts';

const parts = {
  files: posixFiles,
  clock: systemClock,
  random: systemRandom,
  version: 'test',
  loggerOf: () => silent(),
};
const [one, two, three] = ['11', '22', '33'].map((byte) => ({ instance: byte.repeat(16) }));
const lease = (epoch: number): { lease: { epoch: number } } => ({ lease: { epoch } });

let directory = '';
let site: TargetSite;
let admin: Admin;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-release-'));
  site = await TargetSite.start({ directory });
  admin = await openDoor();
});
afterEach(async () => {
  await admin.close();
  await site.remove();
  await rm(directory, { recursive: true, force: true });
});
const openDoor = (): Promise<Admin> =>
  startAdmin({
    ...{ files: posixFiles, logger: silent(), data: site.data },
    record: (machine, entry) => site.target.record(machine, entry),
  });
const release = (machine = 'm1') => releaseMachine(parts, { data: site.data, vault: '', machine });

it('lets a process server without a lease have the machine, from a target that runs; who had it is refused with the evidence', async () => {
  const owner = site.connect('ps-1');
  expect(await owner.greet({ ...one, ...lease(7) })).toEqual([]);
  const lone = await site.connect('ps-2').greet(two);
  expect(lone).toMatchObject({ code: 'stale-epoch', retryable: true, epoch: 7 });
  expect(lone).toMatchObject({
    message: expect.stringContaining('tidemark release m1, on the host of the target') as string,
  });
  const { atMs } = site.store().points.epoch ?? { atMs: 0 };
  expect(await release()).toEqual({ machine: 'm1', from: { server: 'ps-1', epoch: 7, sinceMs: atMs } });
  // Who is still there writes nothing more.
  owner.openDisk().catch(() => undefined);
  const stale = decodeErrorMessage((await owner.next(frameType.error)).body);
  expect(stale).toMatchObject({ code: 'stale-epoch', epoch: 8 });
  expect(stale.message).toMatch(/^epoch 7 is refused: m1 was released at 20.*, as epoch 8$/);
  expect(await site.connect('ps-2').greet(two)).toEqual([]);
  expect(site.store().points.epoch).toMatchObject({ epoch: 9, server: 'ps-2' });
  // Nobody has it by a lease: that is said, and nothing changed.
  expect(await release()).toEqual({ machine: 'm1', from: null });
  expect(site.store().points.epoch?.epoch).toBe(9);
});

it('does no harm where leases are in use: the next lease is above', async () => {
  expect(await site.connect('ps-1').greet({ ...one, ...lease(3) })).toEqual([]);
  await release();
  expect(await site.connect('ps-1').greet({ ...one, ...lease(3) })).toMatchObject({ code: 'stale-epoch', epoch: 4 });
  expect(await site.connect('ps-1').greet({ ...one, ...lease(4) })).toMatchObject({ code: 'stale-epoch', epoch: 4 });
  expect(await site.connect('ps-1').greet({ ...one, ...lease(5) })).toEqual([]);
  expect(await site.connect('ps-3').greet(three)).toMatchObject({ code: 'stale-epoch', epoch: 5 });
});

it('works at a target that does not run, and is there when it does', async () => {
  expect(await site.connect('ps-1').greet({ ...one, ...lease(3) })).toEqual([]);
  await expect(release('m2')).rejects.toMatchObject({ code: 'not-found', remedy: 'did you mean m1?' });
  await admin.close();
  const { data } = site;
  await site.stop();
  expect(await releaseMachine(parts, { data, vault: '', machine: 'm1' })).toMatchObject({ from: { epoch: 3 } });
  site = await TargetSite.start({ directory });
  admin = await openDoor();
  expect(await site.connect('ps-2').greet(two)).toEqual([]);
  expect(site.store().points.epoch?.epoch).toBe(5);
});

it('is refused by the door unless it is the next epoch, and nobody’s', async () => {
  expect(await site.connect('ps-1').greet({ ...one, ...lease(3) })).toEqual([]);
  const ask = (body: object) =>
    askTarget(site.data, {
      machine: 'm1',
      entry: { type: 'epoch', body: body as { epoch: 4; instance: 'released'; atMs: 1 } },
    });
  const body = { epoch: 4, instance: 'released', atMs: 1 };
  for (const epoch of [3, 5, 2 ** 40])
    await expect(ask({ ...body, epoch })).rejects.toMatchObject({ code: 'bad-record' });
  for (const more of [{ instance: '22'.repeat(16) }, { lease: true }, { server: 'ps-2' }])
    await expect(ask({ ...body, ...more })).rejects.toMatchObject({ code: 'bad-argument' });
  expect(site.store().points.epoch?.epoch).toBe(3);
  expect(await ask(body)).toBe(true);
  expect(site.store().points.epoch?.epoch).toBe(4);
});
