/**
 * The disk of the quickstart: real files where there is `mke2fs` (an ext4 file system filled from this machine's own programs and
 * libraries), plain content of the same files where there is not, or a copy of an image the user names. The last part of the disk
 * lies outside the file system: there the writer works, so the file system stays clean and `e2fsck` agrees on every export.
 */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, open, readdir, rm, stat, statfs } from 'node:fs/promises';
import * as path from 'node:path';
import { promisify } from 'node:util';
import { makeStartable, sectorBytes } from './boot-sector.ts';

const run = promisify(execFile);
const MiB = 1024 * 1024;
const sourceTrees = ['/usr/lib', '/usr/share', '/usr/bin', '/usr/include'];

export interface DemoImage {
  readonly path: string;
  readonly size: number;
  /** Where the writer may write. */
  readonly writableFrom: number;
  readonly writableTo: number;
  /** Whether it can be started, and says what it was marked with (`boot-sector.ts`). */
  readonly starts: boolean;
  readonly content: 'ext4' | 'plain files' | 'given image';
}

/** Regular files below the trees, breadth first, until they add up to `bytes`. */
async function* realFiles(bytes: number): AsyncGenerator<{ file: string; size: number }> {
  const queue = [...sourceTrees];
  let sum = 0;
  for (let at = 0; at < queue.length && sum < bytes; at += 1) {
    const directory = queue[at] ?? '';
    const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
    for (const entry of entries.sort((a, b) => a.name.localeCompare(b.name))) {
      const file = path.join(directory, entry.name);
      if (entry.isDirectory()) queue.push(file);
      if (!entry.isFile() || sum >= bytes) continue;
      const { size } = await stat(file).catch(() => ({ size: 0 }));
      if (size === 0 || size > 256 * MiB || sum + size > bytes) continue;
      sum += size;
      yield { file, size };
    }
  }
}

async function hasMke2fs(): Promise<boolean> {
  return run('mke2fs', ['-V']).then(
    () => true,
    () => false,
  );
}

async function fillWithExt4(image: string, fileSystemBytes: number, workDir: string): Promise<void> {
  const staging = await mkdtemp(path.join(workDir, 'files-'));
  let number = 0;
  for await (const { file } of realFiles(Math.floor(fileSystemBytes * 0.8))) {
    const folder = path.join(staging, `d${Math.floor(number / 200)}`);
    if (number % 200 === 0) await mkdir(folder, { recursive: true });
    await copyFile(file, path.join(folder, `${number}-${path.basename(file)}`)).catch(() => undefined);
    number += 1;
  }
  // -E lazy: tables are initialised at once, so nothing is left to a later mount.
  const options = ['-q', '-F', '-t', 'ext4', '-E', 'lazy_itable_init=0,lazy_journal_init=0', '-d', staging];
  await run('mke2fs', [...options, image, `${Math.floor(fileSystemBytes / 1024)}k`], {
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
  await rm(staging, { recursive: true, force: true });
}

async function fillPlain(image: string, bytes: number): Promise<void> {
  const out = await open(image, 'r+');
  try {
    let at = 0;
    for await (const { file, size } of realFiles(Math.floor(bytes * 0.8))) {
      const handle = await open(file, 'r').catch(() => null);
      if (!handle) continue;
      const content = await handle.readFile();
      await handle.close();
      await out.write(content, 0, content.length, at);
      at += Math.ceil(size / 4096) * 4096;
    }
  } finally {
    await out.close();
  }
}

/** Makes the disk image `image` of `size` bytes, or copies `given`, which is never written to. */
export async function makeImage(
  image: string,
  size: number,
  given: string | null,
  workDir: string,
): Promise<DemoImage> {
  if (given !== null) {
    await run('cp', ['--sparse=auto', given, image]);
    const facts = await stat(image);
    const writable = Math.min(32 * MiB, Math.floor(facts.size / 4 / 4096) * 4096);
    const { size: bytes } = facts;
    const range = { writableFrom: bytes - writable, writableTo: bytes };
    return { path: image, size: bytes, ...range, starts: false, content: 'given image' };
  }
  const writable = Math.min(64 * MiB, Math.floor(size / 4));
  const writableFrom = Math.floor((size - writable) / MiB) * MiB;
  const file = await open(image, 'w');
  await file.truncate(size);
  await file.close();
  process.env['PATH'] = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  const ext4 = await hasMke2fs();
  if (ext4) await fillWithExt4(image, writableFrom, workDir);
  else await fillPlain(image, writableFrom);
  await makeStartable(image, size);
  const range = { writableFrom, writableTo: size - sectorBytes };
  return { path: image, size, ...range, starts: true, content: ext4 ? 'ext4' : 'plain files' };
}

/** Throws when the file system of `directory` has less than `bytes` free. */
export async function requireSpace(directory: string, bytes: number): Promise<void> {
  const facts = await statfs(directory);
  const free = facts.bavail * facts.bsize;
  if (free < bytes) {
    throw new Error(
      `${directory} has ${Math.floor(free / MiB)} MiB free, ${Math.ceil(bytes / MiB)} MiB are needed: choose a smaller --size or set TMPDIR`,
    );
  }
}
