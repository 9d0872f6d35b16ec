/** Tests and unplanned failovers of a store without a running target: what they serve, keep, refuse and leave behind. */
import { mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import { exitCodes, type ExitName } from '../../src/fatal.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { requireMounts, Volume } from '../faults/volume.ts';
import { command } from '../product/command.ts';
import { requireTool, runTool, runToolOk } from '../tools.ts';
import { contentOf, FailoverScene, killServing, machine, uriOf, withDisk } from './failover-scene.ts';

let scene: FailoverScene;
beforeEach(async () => {
  scene = await FailoverScene.make();
});
afterEach(() => scene.end());

async function exported(point: number): Promise<Buffer> {
  const to = path.join(scene.directory, 'exported.raw');
  await scene.ok('export', machine, 'vda', '--point', String(point), '--to', to, '--yes');
  return readFile(to);
}

async function refused(name: ExitName, says: string, ...words: string[]): Promise<void> {
  const before = await scene.failovers();
  const { code, stdout, stderr } = await scene.run('failover', ...words);
  expect({ code, stdout }, stderr).toEqual({ code: exitCodes[name].code, stdout: '' });
  expect(stderr).toContain(says);
  // A remedy stands on the second line.
  if (stderr.startsWith('tidemark:')) expect(stderr.trim().split('\n').length).toBeGreaterThan(1);
  expect(await scene.failovers()).toEqual(before);
}

function writeAt(report: FailoverReport, offset: number, fill: number, length = 5000): Promise<void> {
  return withDisk(report, async (client) => {
    await client.write(Buffer.alloc(length, fill), offset);
    await client.flush();
  });
}

describe('a test', () => {
  it('is one of several at once, each of its own point, and leaves the point as it was', async () => {
    const first = await scene.ok('failover', 'test', machine, '--point', '1');
    const second = await scene.ok('failover', 'test', machine, '--listen', 'tcp');
    const third = await scene.ok('failover', 'test', machine, '--point', '1');
    expect([first, second, third].map(({ id, point, state }) => [id, point, state])).toEqual([
      ['test-1', 1, 'running'],
      ['test-2', 3, 'running'],
      ['test-3', 1, 'running'],
    ]);
    expect(uriOf(second)).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/vda$/);
    await writeAt(first, 4096 * 7 + 100, 0x11);
    await writeAt(second, 4096 * 7 + 100, 0x22);
    for (const [report, fill] of [
      [first, 0x11],
      [second, 0x22],
      [third, null],
    ] as const) {
      const model = Buffer.from(scene.image(report.point));
      if (fill !== null) model.fill(fill, 4096 * 7 + 100, 4096 * 7 + 5100);
      expect((await contentOf(report)).equals(model), report.id).toBe(true);
    }
    expect((await scene.list()).map(({ id, served }) => [id, served])).toEqual([
      ['test-1', true],
      ['test-2', true],
      ['test-3', true],
    ]);
    await refused('usage', 'has several tests: test-1, test-2, test-3', 'cleanup', machine);
    expect(await scene.ok('failover', 'cleanup', machine, 'test-2')).toEqual({ removed: ['test-2'] });
    expect(await scene.failovers()).toEqual(['test-1', 'test-3']);
    expect(await scene.ok('failover', 'cleanup', machine, '--all')).toEqual({ removed: ['test-1', 'test-3'] });
    expect(await scene.failovers()).toEqual([]);
    for (const point of [1, 3]) expect((await exported(point)).equals(scene.image(point))).toBe(true);
    // A number is given once.
    expect((await scene.ok('failover', 'test', machine)).id).toBe('test-4');
  });

  it('is of the newest proven point that is not later than a time', async () => {
    // All cuts of this store are one millisecond after the epoch.
    expect((await scene.ok('failover', 'test', machine, '--at', '1970-01-01T01:00:00+00:00')).point).toBe(3);
    await refused(
      'not-found',
      'no proven point at or before 1970-01-01T00:00:00.000Z',
      'test',
      machine,
      '--at',
      '1970-01-01T00:00:00Z',
    );
  });

  it('is served from a directory of its own where the path is too long, which goes with it', async () => {
    const deep = path.join(scene.directory, 'd'.repeat(60), 'e'.repeat(60));
    await mkdir(deep, { recursive: true });
    await runToolOk('cp', ['-r', scene.data, deep]);
    const words = ['--data', path.join(deep, 'data'), '--vault', scene.vault];
    const made = await command(['failover', 'test', machine, ...words, '--json']);
    const report = JSON.parse(made.stdout) as FailoverReport;
    const place = path.dirname(/socket=(.*)$/.exec(uriOf(report))?.[1] ?? '');
    expect((await stat(place)).mode & 0o777).toBe(0o700);
    expect((await contentOf(report)).equals(scene.image(3))).toBe(true);
    expect(await command(['failover', 'cleanup', machine, ...words])).toMatchObject({ code: 0 });
    await expect(stat(place)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(stat(report.directory)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('takes no more than --space', async () => {
    const report = await scene.ok('failover', 'test', machine, '--space', '32K');
    await writeAt(report, 0, 1, 16_384);
    await expect(writeAt(report, 65_536, 2, 16_384)).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(writeAt(report, 65_536, 2, 16_384)).rejects.toMatchObject({ code: 'ENOSPC' });
    // Once, however often the machine tries.
    const said = await readFile(path.join(report.directory, 'serve.log'), 'utf8');
    expect(said.match(/there is no room for what is written to this disk/g)?.length).toBe(1);
    expect(said).toContain('start the failover with more --space');
    const full = {
      code: 'full',
      message: expect.stringContaining('may take 32768 bytes and no more') as string,
      remedy: expect.stringContaining('more --space') as string,
    };
    expect((await scene.list())[0]?.disks).toMatchObject([{ name: 'vda', trouble: full }]);
    expect((await contentOf(report)).subarray(65_536, 70_000).equals(scene.image(3).subarray(65_536, 70_000))).toBe(
      true,
    );
    // What the machine discards is room for others.
    await withDisk(report, (client) => client.trim(0, 16_384));
    expect((await scene.list())[0]?.disks).toMatchObject([{ trouble: null }]);
  });

  it.skipIf(!requireMounts())('says which disk has no room on the file system, until there is', async () => {
    const volume = await Volume.open(path.join(scene.data, 'machines', machine, 'failovers'), MiB);
    try {
      await volume.fill(0);
      const none = await scene.run('failover', 'test', machine);
      expect(none.code, none.stderr).toBe(exitCodes.full.code);
      expect(none.stderr).toContain('make room there');
      await volume.empty();
      const report = await scene.ok('failover', 'test', machine, '--space', '512K');
      await volume.fill(4096);
      await expect(writeAt(report, 65_536, 2, 65_536)).rejects.toMatchObject({ code: 'ENOSPC' });
      const { stdout, stderr } = await command(['failover', 'list', machine, '--data', scene.data]);
      expect(stdout).toMatch(/vda +full +nbd/);
      expect(stderr).toContain('disk vda of m1 in test-1: there is no room');
      expect(stderr).toContain('make room on the file system of the data directory');
      // Nothing is written meanwhile.
      await volume.empty();
      expect((await scene.list())[0]?.disks).toMatchObject([{ trouble: null }]);
      await writeAt(report, 65_536, 2, 65_536);
      await scene.ok('failover', 'cleanup', machine);
    } finally {
      await volume.close();
    }
  });

  it.skipIf(!requireTool('nbdinfo', 'qemu-img', 'qemu-io', 'fio'))('is a disk for everybody’s tools', async () => {
    const report = await scene.ok('failover', 'test', machine, '--point', '2');
    const uri = uriOf(report);
    const info = JSON.parse(await runToolOk('nbdinfo', ['--json', uri])) as { exports: Record<string, unknown>[] };
    expect(info.exports[0]).toMatchObject({
      'export-size': scene.image(2).length,
      is_read_only: false,
      can_trim: true,
      can_fua: true,
    });
    const raw = path.join(scene.directory, 'point.raw');
    await writeFile(raw, scene.image(2));
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, uri]);
    const writes = ['write -P 0x5a 100k 200k', 'write -z 1M 300k', 'discard 2M 64k', 'aio_flush', 'flush'];
    await runToolOk('qemu-io', ['-f', 'raw', ...writes.flatMap((each) => ['-c', each]), uri]);
    const model = Buffer.from(scene.image(2));
    model
      .fill(0x5a, 100 * 1024, 300 * 1024)
      .fill(0, 1024 * 1024, 1324 * 1024)
      .fill(0, 2 * 1024 * 1024, 2112 * 1024);
    await writeFile(raw, model);
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, uri]);
    const qcow2 = path.join(scene.directory, 'point.qcow2');
    await runToolOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, qcow2]);
    await runToolOk('qemu-img', ['check', qcow2]);
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', raw, qcow2]);
    const job = [
      '--name=v',
      '--ioengine=nbd',
      `--uri=${uri}`,
      '--rw=randrw',
      '--bs=1k-12k',
      '--size=8m',
      '--io_size=8m',
    ];
    const checks = [
      '--iodepth=16',
      '--verify=crc32c',
      '--fsync=64',
      '--do_verify=1',
      '--verify_fatal=1',
      '--verify_state_save=0',
    ];
    const said = await runTool('fio', [...job, ...checks]);
    expect(said.code, said.stdout + said.stderr).toBe(0);
    await scene.ok('failover', 'cleanup', machine);
    expect((await exported(2)).equals(scene.image(2))).toBe(true);
  });

  it('is not ended by whoever may not end its process, who is told who may', async () => {
    const report = await scene.ok('failover', 'test', machine);
    vi.spyOn(process, 'kill').mockImplementation(() => {
      throw Object.assign(new Error('kill EPERM'), { code: 'EPERM' });
    });
    try {
      await refused('refused', 'of another user', 'cleanup', machine);
    } finally {
      vi.restoreAllMocks();
    }
    expect(await scene.list()).toEqual([report]);
    await scene.ok('failover', 'cleanup', machine);
  });

  it('refuses what it can not do, says what to do, and changes nothing', async () => {
    await refused('not-found', 'holds no machine nobody', 'test', 'nobody');
    await refused('not-found', 'has no point 9', 'test', machine, '--point', '9');
    await refused('usage', 'Not a time', 'test', machine, '--at', 'yesterday');
    await refused('usage', 'Not a size', 'test', machine, '--space', 'much');
    await refused('full', 'bytes free, less than', 'test', machine, '--space', '8000T');
    await refused('not-found', 'has no test test-7', 'cleanup', machine, 'test-7');
    await refused('not-found', 'there is no test', 'cleanup', machine);
    await refused('not-found', 'is not failed over', 'cancel', machine, '--yes');
    await refused('not-found', 'is not failed over', 'commit', machine);
    await refused('usage', 'nobody can be asked', 'unplanned', machine);
    const nowhere = await command([
      'failover',
      'test',
      machine,
      '--data',
      scene.data,
      '--vault',
      path.join(scene.directory, 'none'),
    ]);
    expect(nowhere).toMatchObject({ code: exitCodes['no-key'].code, stdout: '' });
    expect(await scene.failovers()).toEqual([]);
  });

  it('says why its process did not come up, and leaves nothing', async () => {
    // The content of the newest point is gone: its segment is cut short behind the last point's records.
    const segments = path.join(scene.data, 'machines', machine, 'segments');
    await rm(path.join(scene.data, 'machines', machine, 'index'), { recursive: true });
    for (const name of await readdir(segments))
      if (name.endsWith('.seg')) await truncate(path.join(segments, name), 4096);
    const { code, stderr } = await scene.run('failover', 'test', machine);
    expect(code, stderr).toBe(exitCodes.damaged.code);
    expect(stderr).toContain('failover test-1 can not be served');
    expect(await scene.failovers()).toEqual([]);
    // Nothing was begun either.
    const unplanned = await scene.run('failover', 'unplanned', machine, '--yes');
    expect(unplanned.code, unplanned.stderr).toBe(exitCodes.damaged.code);
    expect(await scene.failovers()).toEqual([]);
    await refused('not-found', 'is not failed over', 'cancel', machine, '--yes');
  });
});

describe('an unplanned failover', () => {
  const begin = (...words: string[]) => scene.ok('failover', 'unplanned', machine, '--yes', ...words);

  it('keeps what was flushed over the death of its process, and is the same when asked for again', async () => {
    const first = await begin('--point', '2');
    expect(first).toMatchObject({ id: 'unplanned-1', point: 2, generation: 1, state: 'running', served: true });
    await writeAt(first, 12_345, 0x42);
    const again = await begin();
    expect(again).toEqual(first);
    await killServing(first);
    expect((await scene.list())[0]).toMatchObject({ id: 'unplanned-1', served: false });
    const after = await begin('--point', '2');
    expect(after).toEqual(first);
    const model = Buffer.from(scene.image(2));
    model.fill(0x42, 12_345, 17_345);
    expect((await contentOf(after)).equals(model)).toBe(true);
    await refused(
      'usage',
      'runs from point 2 already: failover unplanned-1',
      'unplanned',
      machine,
      '--yes',
      '--point',
      '3',
    );
    await refused('usage', 'is no test', 'cleanup', machine, 'unplanned-1');
    // Tests go on beside it.
    const test = await scene.ok('failover', 'test', machine, '--point', '3');
    expect(test).toMatchObject({ id: 'test-2', generation: 1 });
    expect((await contentOf(test)).equals(scene.image(3))).toBe(true);
    expect(await scene.ok('failover', 'cancel', machine, '--yes')).toEqual({ id: 'unplanned-1' });
    expect(await scene.failovers()).toEqual(['test-2']);
    expect(await begin()).toMatchObject({ id: 'unplanned-3', point: 3, generation: 3 });
  });

  it('can not be cancelled once it is committed', async () => {
    const first = await begin('--listen', 'tcp');
    await writeAt(first, 0, 0x33);
    expect(await scene.ok('failover', 'commit', machine)).toEqual({ ...first, state: 'committed' });
    expect(await scene.ok('failover', 'commit', machine)).toEqual({ ...first, state: 'committed' });
    await refused('usage', 'was committed and can not be cancelled', 'cancel', machine, '--yes');
    await killServing(first);
    const again = await begin();
    // Also its port is what it was.
    expect(again).toEqual({ ...first, state: 'committed' });
    expect((await contentOf(again)).subarray(0, 5000).equals(Buffer.alloc(5000, 0x33))).toBe(true);
  });

  it('is not begun when it can not be served', async () => {
    const vault = await readFile(scene.vault);
    await writeFile(scene.vault, 'no key');
    const { code } = await scene.run('failover', 'unplanned', machine, '--yes');
    expect(code).toBe(exitCodes['no-key'].code);
    await writeFile(scene.vault, vault);
    expect(await scene.failovers()).toEqual([]);
    await refused('not-found', 'is not failed over', 'cancel', machine, '--yes');
  });
});
