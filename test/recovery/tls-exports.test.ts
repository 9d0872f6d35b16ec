/** Failovers and points served over TLS: with what is printed QEMU and libnbd get in, across restarts, and what was made for it goes with the export. */
import { spawnSync } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { composeRoles } from '../../src/main/compose.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { requireTool, runTool, runToolOk } from '../tools.ts';
import { plain } from './definitions.ts';
import { FailoverScene, killServing, machine, uriOf } from './failover-scene.ts';

let scene: FailoverScene;
beforeEach(async () => {
  scene = await FailoverScene.make({ ...plain, disks: ['vda'] });
});
afterEach(() => scene.end());

const tools = ['nbdinfo', 'nbdcopy', 'qemu-img', 'qemu-system-x86_64'] as const;

async function contentOver(uri: string): Promise<Buffer> {
  const copy = path.join(scene.directory, 'copy.raw');
  await runToolOk('nbdcopy', [uri, copy]);
  return await readFile(copy);
}

/** Everything under a directory, as text. */
async function textsUnder(directory: string): Promise<string> {
  const found = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = found.filter((each) => each.isFile() && !each.name.endsWith('-key.pem'));
  return (await Promise.all(files.map((each) => readFile(path.join(each.parentPath, each.name))))).join('\n');
}

describe.skipIf(!requireTool(...tools))('a failover over TLS', () => {
  it('is reached with what is printed, by nobody else, and leaves no key behind', { timeout: 60_000 }, async () => {
    const report = await scene.ok('failover', 'test', machine, '--listen', 'tls');
    const { directory, certificates, qemu, disks } = report;
    expect(certificates).toBe(path.join(directory, 'tls', 'client'));
    expect(uriOf(report)).toMatch(/^nbds:\/\/127\.0\.0\.1:\d+\/vda\?tls-certificates=/);
    expect(await scene.list()).toEqual([report]);
    expect((await contentOver(uriOf(report))).equals(scene.image(3))).toBe(true);
    expect(await runToolOk('sh', ['-c', `qemu-img info ${disks[0]?.qemuImage ?? ''}`])).toContain('8 MiB');
    const plainly = uriOf(report).replace('nbds:', 'nbd:').replace(/\?.*/, '');
    expect((await runTool('qemu-img', ['info', plainly])).stderr).toContain('TLS');
    // The machine is not started, but QEMU has opened its disk when it takes the key that ends it.
    const line = (qemu ?? '').replace('-accel kvm ', '');
    const run = spawnSync('sh', ['-c', `${line} -S -display none`], { input: '\x01x', timeout: 20_000 });
    expect({ status: run.status, said: run.stderr.toString() }).toEqual({ status: 0, said: '' });
    expect(`${JSON.stringify(report)}${await textsUnder(directory)}`).not.toContain('PRIVATE KEY');
    expect(await scene.ok('failover', 'cleanup', machine)).toEqual({ removed: [report.id] });
    expect(await posixFiles.exists(directory)).toBe(false);
  });

  it('keeps its address and its certificates when it is served again', { timeout: 60_000 }, async () => {
    const begin = (): Promise<FailoverReport> =>
      scene.ok('failover', 'unplanned', machine, '--yes', '--listen', 'tls', '--address', '127.0.0.9');
    const begun = await begin();
    const uri = uriOf(begun);
    expect(uri).toMatch(/^nbds:\/\/127\.0\.0\.9:/);
    await runToolOk('sh', ['-c', `qemu-io -c 'write -P 0x42 0 4k' -c flush ${begun.disks[0]?.qemuImage ?? ''}`]);
    await killServing(begun);
    expect(await begin()).toEqual(begun);
    const model = Buffer.from(scene.image(begun.point)).fill(0x42, 0, 4096);
    expect((await contentOver(uri)).equals(model)).toBe(true);
    await scene.ok('failover', 'cancel', machine, '--yes');
    expect(await scene.failovers()).toEqual([]);
  });

  it('is not made at an address that is none of this host', async () => {
    for (const [address, says] of [
      ['192.0.2.1', 'can not listen on 192.0.2.1'],
      ['0.0.0.0', 'no address that clients could be told'],
    ] as const) {
      const { code, stderr } = await scene.run('failover', 'test', machine, '--listen', 'tls', '--address', address);
      expect(code).not.toBe(exitCodes.ok.code);
      expect(stderr).toContain(says);
    }
    expect(await scene.failovers()).toEqual([]);
  });
});

describe.skipIf(!requireTool('nbdcopy', 'qemu-img'))('a point over TLS', () => {
  it('is served read-only; its certificates go with it', async () => {
    const { data, vault } = scene;
    const where = { tls: { host: '127.0.0.1', port: 0 } };
    const running = await composeRoles('0').serveNbd({ data, vault, machine, disk: 'vda', point: 2, listen: where });
    const [uri = '', words = ''] = running.reachable.map((each) => each.where);
    const certificates = new URL(uri).searchParams.get('tls-certificates') ?? '';
    try {
      expect((await contentOver(uri)).equals(scene.image(2))).toBe(true);
      expect(await runToolOk('sh', ['-c', `qemu-img info ${words}`])).toContain('8 MiB');
      expect(await readdir(certificates)).toEqual(['ca-cert.pem', 'client-cert.pem', 'client-key.pem']);
    } finally {
      await running.close();
    }
    expect(await posixFiles.exists(certificates)).toBe(false);
  });
});
