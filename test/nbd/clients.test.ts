/**
 * The server against clients nobody here wrote: libnbd (nbdinfo, nbdcopy), QEMU (qemu-img, qemu-io), fio, and nbdkit's nbd
 * plugin as a client that passes requests on; and our client against nbdkit's server.
 */
import { spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { requireTool, runTool, runToolOk } from '../tools.ts';
import { patchyContent } from './backend-contract.ts';
import { MemoryBackend } from './memory-backend.ts';
import { Place } from './serve.ts';

/** A multiple of 512 and of nothing larger. */
const oddSize = 8 * MiB + 3 * 512;

let place: Place;
beforeEach(async () => {
  place = await Place.make();
});
afterEach(() => place.end());

describe.skipIf(!requireTool('nbdinfo', 'nbdcopy'))('libnbd', () => {
  test('nbdinfo --json tells size, flags and request sizes', async () => {
    const disks = new Map([
      ['one', new MemoryBackend(Buffer.alloc(oddSize))],
      ['two', new MemoryBackend(Buffer.alloc(4096), { readOnly: true, multiConnection: false })],
    ]);
    const server = await place.serve(disks, { defaultExport: 'one' });
    const one: unknown = JSON.parse(await runToolOk('nbdinfo', ['--json', server.uri('one')]));
    expect(one).toMatchObject({
      protocol: 'newstyle-fixed',
      structured: true,
      exports: [
        {
          'export-size': oddSize,
          contexts: ['base:allocation'],
          is_read_only: false,
          can_cache: false,
          can_df: true,
          can_fast_zero: false,
          can_flush: true,
          can_fua: true,
          can_multi_conn: true,
          can_trim: true,
          can_zero: true,
          block_size_minimum: 1,
          block_size_preferred: 4096,
          block_size_maximum: limits.nbd.requestBytesMax,
        },
      ],
    });
    const two: unknown = JSON.parse(await runToolOk('nbdinfo', ['--json', server.uri('two')]));
    expect(two).toMatchObject({
      exports: [{ is_read_only: true, can_multi_conn: false, can_trim: false, can_zero: false }],
    });
    const list = await runToolOk('nbdinfo', ['--list', server.uri('')]);
    expect(list).toContain('export="one"');
    expect(list).toContain('export="two"');
    expect(await runToolOk('nbdinfo', ['--size', server.uri('')])).toBe(`${oddSize}\n`);
    expect((await runTool('nbdinfo', [server.uri('three')])).code).not.toBe(0);
  });

  test('nbdinfo --map tells data from holes', async () => {
    const content = Buffer.alloc(MiB + 512);
    content.fill(1, 65_536, 131_072);
    const server = await place.serve(new MemoryBackend(content));
    const map: unknown = JSON.parse(await runToolOk('nbdinfo', ['--map', '--json', server.uri('disk')]));
    expect(map).toEqual([
      { offset: 0, length: 65_536, type: 3, description: 'hole,zero' },
      { offset: 65_536, length: 65_536, type: 0, description: 'data' },
      { offset: 131_072, length: MiB + 512 - 131_072, type: 3, description: 'hole,zero' },
    ]);
  });

  test.each([1, 4])('nbdcopy in and out over %i connections copies every byte', async (connections) => {
    const content = patchyContent(oddSize, 11);
    const memory = new MemoryBackend(Buffer.alloc(oddSize, 0xff));
    const server = await place.serve(memory);
    const source = place.file('source.raw');
    await writeFile(source, content);
    const many = [`--connections=${connections}`];
    await runToolOk('nbdcopy', [...many, '--flush', source, server.uri('disk')]);
    expect(memory.content.equals(content)).toBe(true);
    expect(memory.calls.flush).toBeGreaterThan(0);
    await runToolOk('nbdcopy', [...many, server.uri('disk'), place.file('copy.raw')]);
    expect((await readFile(place.file('copy.raw'))).equals(content)).toBe(true);
  });
});

describe.skipIf(!requireTool('qemu-img', 'qemu-io'))('QEMU', () => {
  test('qemu-img converts in and out over TCP, and compare agrees', async () => {
    const content = patchyContent(oddSize, 12);
    const memory = new MemoryBackend(Buffer.alloc(oddSize));
    const server = await place.serve(memory, { listen: { host: '127.0.0.1', port: 0 } });
    const source = place.file('source.raw');
    await writeFile(source, content);
    await runToolOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, server.uri('disk')]);
    expect(memory.content.equals(content)).toBe(true);
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, server.uri('disk')]);
    const copy = place.file('copy.qcow2');
    await runToolOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', server.uri('disk'), copy]);
    await runToolOk('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', source, copy]);
    memory.content[oddSize - 1] = (memory.content[oddSize - 1] ?? 0) ^ 1;
    const different = await runTool('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', source, server.uri('disk')]);
    expect(different.code).toBe(1);
  });

  test('qemu-io: write, FUA, discard, zeroes with and without unmapping', async () => {
    const memory = new MemoryBackend(Buffer.alloc(oddSize, 0x11));
    const server = await place.serve(memory);
    const expected = Buffer.from(memory.content);
    const last = oddSize - 512;
    await runToolOk('qemu-io', [
      ...['-f', 'raw', '-t', 'none'],
      ...['-c', 'write -P 0x22 1000 70000', '-c', 'write -f -P 0x33 128k 4k', '-c', 'write -z 256k 100k'],
      ...['-c', 'write -z -u 512k 64k', '-c', 'discard 1M 1M', '-c', `write -P 0x44 ${last} 512`],
      ...['-c', 'flush', '-c', 'read -P 0x22 1000 70000', '-c', 'read -P 0 1M 1M', '-c', `read -P 0x44 ${last} 512`],
      server.uri('disk'),
    ]);
    expected.fill(0x22, 1000, 71_000).fill(0x33, 131_072, 135_168).fill(0, 262_144, 364_544);
    expected
      .fill(0, 524_288, 589_824)
      .fill(0, MiB, 2 * MiB)
      .fill(0x44, last);
    expect(memory.content.equals(expected)).toBe(true);
    expect(memory.fuaCalls).toBeGreaterThan(0);
    expect(memory.keptAllocated).toBe(1);
    expect(memory.calls.flush).toBeGreaterThan(0);
  });

  test('a read-only export can not be written', async () => {
    const memory = new MemoryBackend(Buffer.alloc(65_536, 5), { readOnly: true });
    const server = await place.serve(memory);
    await runToolOk('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 5 0 64k', server.uri('disk')]);
    const result = await runTool('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 512', server.uri('disk')]);
    expect(result.code).not.toBe(0);
    expect(memory.content.every((byte) => byte === 5)).toBe(true);
  });
});

describe.skipIf(!requireTool('fio'))('fio', () => {
  test('random reads and writes of any size verify', async () => {
    const server = await place.serve(new MemoryBackend(Buffer.alloc(oddSize)));
    const output = await runToolOk(
      'fio',
      [
        '--name=verify',
        '--ioengine=nbd',
        `--uri=${server.uri('disk')}`,
        '--rw=randrw',
        '--bsrange=512-128k',
        '--bs_unaligned=0',
        '--blockalign=512',
        '--iodepth=16',
        '--size=8M',
        '--io_size=32M',
        '--verify=crc32c',
        '--verify_backlog=64',
        '--verify_fatal=1',
        '--randrepeat=0',
      ],
      { cwd: place.directory },
    );
    expect(output).toContain('err= 0');
  });
});

/** The socket's file is there a moment before its server listens. */
async function connectOnceItListens(unixPath: string): Promise<NbdClient> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await connectNbd({ unixPath }, { clock: systemClock });
    } catch (error) {
      if (tries === 500) throw error;
      await systemClock.sleep(10);
    }
  }
}

describe.skipIf(!requireTool('nbdkit'))('nbdkit', () => {
  test('our client speaks to its server', async () => {
    const unixPath = place.file('kit');
    const kit = spawn('nbdkit', ['--foreground', '--exit-with-parent', '--unix', unixPath, 'memory', `${MiB}`], {
      stdio: 'ignore',
    });
    const ended = new Promise((resolve) => kit.once('exit', resolve));
    try {
      const client = await connectOnceItListens(unixPath);
      expect(client.size).toBe(MiB);
      const content = patchyContent(300_000, 13);
      await Promise.all([client.write(content, 1000), client.write(Buffer.alloc(100, 9), 700_000, { fua: true })]);
      await client.flush();
      await client.zero(2000, 5000);
      await client.trim(8192, 4096);
      content.fill(0, 1000, 6000).fill(0, 7192, 11_288);
      expect((await client.read(1000, 300_000)).equals(content)).toBe(true);
      const extents = await client.blockStatus(0, MiB);
      expect(extents.reduce((sum, extent) => sum + extent.length, 0)).toBe(MiB);
      await client.close();
    } finally {
      kit.kill('SIGTERM');
      await ended;
    }
  });
});
