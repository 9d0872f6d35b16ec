/** Exports: cut short and gone on with, onto what was there before, onto block devices, without space; and what qemu-img makes of them. */
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { Problem } from '../../src/kit/problem.ts';
import { posixFiles as files, type File, type Files } from '../../src/posix/files.ts';
import { acquireLock } from '../../src/posix/lock.ts';
import { exportQcow2 } from '../../src/recovery/export-qcow2.ts';
import { exportRaw, type ExportOptions } from '../../src/recovery/export.ts';
import { entriesOf, entryHeaderBytes, entryType, firstSegment, flipBit } from '../../scripts/demo/damage.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { blocks, blockSize, diskBytes, PointsMade } from './points-made.ts';

let made: PointsMade;
let directory = '';
beforeAll(async () => {
  made = await PointsMade.make([
    [...blocks(0, 200)],
    blocks(200, 200),
    blocks(400, 200),
    blocks(600, 200),
    blocks(800, 200),
    blocks(100, 50, 2, 0x00f0),
    blocks(1500, 100),
  ]);
});
afterAll(() => made.remove());
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-export-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const to = (): string => path.join(directory, 'out.raw');
const part = (): string => `${to()}.part`;

interface Trial extends Partial<Omit<ExportOptions, 'signal'>> {
  /** Bytes written after which the export is told to end. */
  readonly interruptAfter?: number;
}

/** `files` whose writes are counted and may be told of. */
function counted(told: (bytes: number) => void): Files {
  return {
    ...files,
    open: async (name, mode, permissions) => {
      const file: File = await files.open(name, mode, permissions);
      const write = file.write.bind(file);
      file.write = (parts, position) => {
        told(parts.reduce((sum, each) => sum + each.byteLength, 0));
        return write(parts, position);
      };
      return file;
    },
  };
}

async function exported(point: number, trial: Trial = {}): Promise<{ written: number; kept: number }> {
  const { image, leafKeys } = await made.image(point);
  const abort = new AbortController();
  let left = trial.interruptAfter ?? Infinity;
  const through = counted((bytes) => {
    left -= bytes;
    if (left <= 0) abort.abort();
  });
  const { signal } = abort;
  const progress = (): void => undefined;
  return exportRaw(image, { files: through, clock, to: to(), overwrite: false, leafKeys, progress, ...trial, signal });
}

const dataOf = (point: number): number =>
  Array.from({ length: diskBytes / blockSize }, (_, block) =>
    made
      .content(point)
      .subarray(block * blockSize, (block + 1) * blockSize)
      .some((byte) => byte !== 0),
  ).filter(Boolean).length * blockSize;

/** In a payload that point 5 brought, behind everything an export has written when it is cut short. */
async function damageOfPoint5(): Promise<() => Promise<void>> {
  const segment = await firstSegment(made.data, 'm1');
  const batches = entriesOf(await readFile(segment)).filter(({ type }) => type === entryType.batch);
  const { at, bodyLength } = batches[4] ?? expect.fail('point 5 has no batch');
  const flip = (): Promise<void> => flipBit(segment, at + entryHeaderBytes + bodyLength - 100, 2);
  await flip();
  return flip;
}

describe('a raw export', () => {
  it('is the disk, and no bigger than its data', async () => {
    expect(await exported(7)).toEqual({ written: dataOf(7), kept: 0 });
    expect((await readFile(to())).equals(made.content(7))).toBe(true);
    const { blocks: sectors } = await stat(to());
    expect(sectors * 512).toBeLessThan(dataOf(7) + 256 * 1024);
    expect(await readdir(directory)).toEqual(['out.raw']);
  });

  it('that was cut short goes on, and writes nothing twice', async () => {
    const cut = exported(7, { interruptAfter: 2 * 1024 * 1024 });
    await expect(cut).rejects.toMatchObject({ code: 'interrupted', remedy: /run it again/ });
    expect(await readdir(directory)).toEqual(['out.raw.part']);
    const { written, kept } = await exported(7);
    expect(kept).toBeGreaterThanOrEqual(2 * 1024 * 1024);
    expect(written + kept).toBe(dataOf(7));
    expect((await readFile(to())).equals(made.content(7))).toBe(true);
    expect(await readdir(directory)).toEqual(['out.raw']);
  });

  it('that goes on believes nothing of what it finds', async () => {
    await expect(exported(7, { interruptAfter: 2 * 1024 * 1024 })).rejects.toMatchObject({ code: 'interrupted' });
    // A block that was done, a hole, and what lies far behind all that was done.
    await flipBit(part(), 5 * blockSize + 17, 3);
    for (const place of [1030 * blockSize, diskBytes - 1]) await flipBit(part(), place, 1);
    const { written, kept } = await exported(7);
    expect(written + kept).toBe(dataOf(7));
    expect((await readFile(to())).equals(made.content(7))).toBe(true);
  });

  it('of another point than the one that was cut short is that other point', async () => {
    await expect(exported(7, { interruptAfter: 3 * 1024 * 1024 })).rejects.toMatchObject({ code: 'interrupted' });
    const { kept } = await exported(5);
    expect(kept).toBeGreaterThan(0);
    expect((await readFile(to())).equals(made.content(5))).toBe(true);
  });

  it('began anew over a file of another size with that name', async () => {
    await writeFile(part(), Buffer.alloc(diskBytes + 512, 7));
    expect(await exported(5)).toEqual({ written: dataOf(5), kept: 0 });
    expect((await readFile(to())).equals(made.content(5))).toBe(true);
  });

  it('of a damaged point leaves no file behind, though one was begun', async () => {
    await expect(exported(5, { interruptAfter: 1024 * 1024 })).rejects.toMatchObject({ code: 'interrupted' });
    const undo = await damageOfPoint5();
    try {
      await expect(exported(5)).rejects.toMatchObject({ code: 'damaged' });
      expect(await readdir(directory)).toEqual([]);
    } finally {
      await undo();
    }
  });

  it('without space keeps what it has and says so; with space it goes on', async () => {
    let left = 100;
    const full = counted(() => {
      left -= 1;
      if (left < 0) throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    });
    left = 1;
    await expect(exported(7, { files: full })).rejects.toMatchObject({ code: 'full', remedy: /go on/ });
    expect(await readdir(directory)).toEqual(['out.raw.part']);
    expect((await exported(7)).kept).toBeGreaterThan(0);
  });

  it('whose sync failed does not go on from what the page cache shows', async () => {
    const failing: Files = {
      ...files,
      open: async (name, mode, permissions) => {
        const file = await files.open(name, mode, permissions);
        file.datasync = () => Promise.reject(new Problem('sync-failed', 'given up'));
        return file;
      },
    };
    await expect(exported(7, { files: failing })).rejects.toMatchObject({ code: 'not-writable' });
    expect(await readdir(directory)).toEqual([]);
  });

  it('does not touch what another export is writing', async () => {
    await writeFile(part(), 'theirs');
    const theirs = await acquireLock(files, clock, part(), { pid: 1, role: 'export', since: '' });
    try {
      await expect(exported(5, { overwrite: true })).rejects.toMatchObject({ code: 'locked' });
    } finally {
      await theirs.release();
    }
    expect(await readFile(part(), 'utf8')).toBe('theirs');
  });
});

const canLoop = requireTool('losetup') && process.getuid?.() === 0;
describe.skipIf(!canLoop)('an export to a block device', () => {
  let device = '';
  const image = (): string => path.join(directory, 'device.img');
  async function attach(bytes: number): Promise<void> {
    await writeFile(image(), Buffer.alloc(bytes, 0xa5));
    device = (await runToolOk('losetup', ['-f', '--show', image()])).trim();
  }
  afterEach(async () => {
    if (device !== '') await runToolOk('losetup', ['-d', device]);
    device = '';
  });
  async function content(): Promise<Buffer> {
    await runToolOk('losetup', ['-d', device]);
    device = '';
    return readFile(image());
  }

  it('refuses without --yes and changes nothing, then replaces what was there and leaves what lies behind the disk', async () => {
    await attach(diskBytes + 1024 * 1024);
    await expect(exported(7, { to: device })).rejects.toMatchObject({ code: 'bad-argument', remedy: /--yes/ });
    expect((await readFile(device)).every((byte) => byte === 0xa5)).toBe(true);
    await exported(7, { to: device, overwrite: true });
    const found = await content();
    expect(found.subarray(0, diskBytes).equals(made.content(7))).toBe(true);
    expect(found.subarray(diskBytes).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('that was cut short goes on', async () => {
    await attach(diskBytes);
    const cut = exported(7, { to: device, overwrite: true, interruptAfter: 2 * 1024 * 1024 });
    await expect(cut).rejects.toMatchObject({ code: 'interrupted', remedy: 'run it again to go on' });
    const { written, kept } = await exported(7, { to: device, overwrite: true });
    expect(kept).toBeGreaterThanOrEqual(2 * 1024 * 1024);
    expect(written + kept).toBe(dataOf(7));
    expect((await content()).equals(made.content(7))).toBe(true);
  });

  it('refuses one that is too small, and one that is in use', async () => {
    await attach(diskBytes - 4096);
    await expect(exported(7, { to: device, overwrite: true })).rejects.toMatchObject({ code: 'bad-argument' });
    await runToolOk('losetup', ['-d', device]);
    await attach(diskBytes);
    await runToolOk('mkfs.ext4', ['-q', '-F', device]);
    const mountPoint = path.join(directory, 'mounted');
    await files.makeDirectory(mountPoint);
    await runToolOk('mount', [device, mountPoint]);
    try {
      await expect(exported(7, { to: device, overwrite: true })).rejects.toMatchObject({ code: 'locked' });
    } finally {
      await runToolOk('umount', [mountPoint]);
    }
  });
});

describe.skipIf(!requireTool('qemu-img'))('an export to qcow2', () => {
  const programPath = process.env['PATH'] ?? '';
  const qcow2 = (): string => path.join(directory, 'out.qcow2');
  const converted = async (
    point: number,
    compress: boolean,
    change: Partial<ExportOptions> & { programPath?: string } = {},
  ) => {
    const { image } = await made.image(point);
    const { signal } = new AbortController();
    const told: number[] = [];
    const progress = (bytes: number): void => {
      told.push(bytes);
    };
    const common = { files, clock, random, overwrite: false, compress, programPath, signal, progress };
    await exportQcow2(image, { ...common, to: qcow2(), ...change });
    return told;
  };

  it.each([false, true])('is the disk, as qemu-img sees it (compressed: %s)', async (compress) => {
    const told = await converted(7, compress);
    expect(told.at(-1)).toBe(diskBytes);
    await writeFile(path.join(directory, 'reference.raw'), made.content(7));
    await runToolOk('qemu-img', ['check', '-q', qcow2()]);
    const words = ['compare', '-f', 'raw', '-F', 'qcow2', path.join(directory, 'reference.raw'), qcow2()];
    await runToolOk('qemu-img', words);
    expect((await readdir(directory)).sort()).toEqual(['out.qcow2', 'reference.raw']);
  });

  it('says what to install when there is no qemu-img', async () => {
    const missing = converted(7, false, { programPath: directory });
    await expect(missing).rejects.toMatchObject({ code: 'not-found', remedy: /qemu-utils/ });
    expect(await readdir(directory)).toEqual([]);
  });

  it('of a damaged block is refused as damaged, not as a failed conversion', async () => {
    const undo = await damageOfPoint5();
    try {
      await expect(converted(5, false)).rejects.toMatchObject({ code: 'damaged' });
      expect(await readdir(directory)).toEqual([]);
    } finally {
      await undo();
    }
  });

  it('that is cut short leaves nothing', async () => {
    const abort = new AbortController();
    const progress = (): void => abort.abort();
    const cut = converted(7, true, { signal: abort.signal, progress });
    await expect(cut).rejects.toMatchObject({ code: 'interrupted' });
    expect(await readdir(directory)).toEqual([]);
  });
});
