/** The overlay as an NBD disk: the contract of every backend, what the base keeps, its bound, and opening it again. */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Problem } from '../../src/kit/problem.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { createOverlay, Overlay } from '../../src/recovery/overlay.ts';
import { chunkPages, pageBytes, PageSet } from '../../src/recovery/overlay-pages.ts';
import { OverlaySpace } from '../../src/recovery/overlay-space.ts';
import { backendContract, patchyContent } from '../nbd/backend-contract.ts';
import { MemoryBackend } from '../nbd/memory-backend.ts';
import { SimulatedFiles } from '../simulated-files.ts';

const point = 7;
const files = posixFiles;
const plenty = 2 ** 40;

let directory = '';
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'tidemark-overlay-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const pathsIn = (place: string) => ({
  overlay: path.join(place, 'disk-0.overlay'),
  map: path.join(place, 'disk-0.map'),
});

async function made(base: MemoryBackend, bytesMax = plenty): Promise<Overlay> {
  await createOverlay(files, pathsIn(directory), { point, diskSize: base.size });
  return opened(base, bytesMax);
}

function opened(base: MemoryBackend, bytesMax = plenty, space = new OverlaySpace(bytesMax)): Promise<Overlay> {
  return Overlay.open({ files, paths: pathsIn(directory), point, base, space });
}

const readOnly = (content: Buffer): MemoryBackend => new MemoryBackend(content, { readOnly: true });

async function whole(overlay: Overlay): Promise<Buffer> {
  const bytes = Buffer.alloc(overlay.size, 0xc3);
  await overlay.read(bytes, 0);
  return bytes;
}

backendContract('overlay over a read-only disk', async (content) => {
  const place = await mkdtemp(path.join(tmpdir(), 'tidemark-overlay-'));
  const base = readOnly(Buffer.from(content));
  await createOverlay(files, pathsIn(place), { point, diskSize: base.size });
  const space = new OverlaySpace(plenty);
  const backend = await Overlay.open({ files, paths: pathsIn(place), point, base, space });
  return {
    backend,
    end: async () => {
      await backend.close();
      expect(base.content.equals(content), 'the base is as it was').toBe(true);
      await rm(place, { recursive: true });
    },
  };
});

backendContract('overlay where no hole can be punched', async (content) => {
  const simulated = new SimulatedFiles(['/f']);
  simulated.punches = () => false;
  const base = readOnly(Buffer.from(content));
  await createOverlay(simulated, pathsIn('/f'), { point, diskSize: base.size });
  const space = new OverlaySpace(plenty);
  const backend = await Overlay.open({ files: simulated, paths: pathsIn('/f'), point, base, space });
  return { backend, end: () => backend.close() };
});

describe('an overlay', () => {
  it('keeps everything over a close, in several chunks of its map', async () => {
    const size = (chunkPages + 3) * pageBytes + 512;
    const base = new MemoryBackend(Buffer.alloc(size, 0x11), { readOnly: true });
    const first = await made(base);
    const places = [0, 4095, chunkPages * pageBytes - 1, size - 100];
    for (const place of places) await first.write(Buffer.alloc(100, 0x77), place, false);
    await first.zero(pageBytes * 9 + 5, 3 * pageBytes, true, true);
    const before = await whole(first);
    await first.close();
    const space = new OverlaySpace(plenty);
    const again = await opened(base, plenty, space);
    expect((await whole(again)).equals(before)).toBe(true);
    const model = Buffer.from(base.content);
    for (const place of places) model.fill(0x77, place, place + 100);
    model.fill(0, pageBytes * 9 + 5, pageBytes * 12 + 5);
    expect(before.equals(model)).toBe(true);
    expect(space.usedBytes).toBe(2 * 8192 + 7 * pageBytes);
    await again.close();
  });

  it('takes no more than it may, and says ENOSPC', async () => {
    const base = readOnly(Buffer.alloc(64 * pageBytes, 0x22));
    const space = 8192 + 3 * pageBytes;
    const overlay = await made(base, space);
    await overlay.write(Buffer.alloc(2 * pageBytes, 1), 0, false);
    await expect(overlay.write(Buffer.alloc(2 * pageBytes, 2), 10 * pageBytes, false)).rejects.toMatchObject({
      code: 'ENOSPC',
    });
    await overlay.write(Buffer.alloc(pageBytes, 3), 20 * pageBytes, false);
    await expect(overlay.write(Buffer.alloc(1, 4), 30 * pageBytes, true)).rejects.toMatchObject({ code: 'ENOSPC' });
    // Reads go on, and so do writes to what is there; zeros make room.
    await overlay.write(Buffer.alloc(pageBytes, 5), 0, true);
    expect(overlay.trouble).toEqual({ why: 'space', bytes: pageBytes });
    await overlay.zero(0, 2 * pageBytes, true, true);
    expect(overlay.trouble).toBeNull();
    await overlay.write(Buffer.alloc(2 * pageBytes, 6), 40 * pageBytes, true);
    const bytes = await whole(overlay);
    expect([0, 2, 10, 20, 30, 40].map((page) => bytes[page * pageBytes])).toEqual([0, 0x22, 0x22, 3, 0x22, 6]);
    await overlay.close();
  });

  it('says ENOSPC, and why, when somebody else filled the file system; reads go on, and writes once there is room', async () => {
    const base = readOnly(Buffer.alloc(64 * pageBytes, 0x22));
    await createOverlay(files, pathsIn(directory), { point, diskSize: base.size });
    const disk: { full: false | 'ENOSPC' | 'EDQUOT' } = { full: false };
    const filling: Files = {
      ...files,
      open: async (name, mode, permissions) => {
        const file = await files.open(name, mode, permissions);
        const write = file.write.bind(file);
        file.write = (parts, at) =>
          disk.full
            ? Promise.reject(Object.assign(new Error(`${disk.full}: no space left`), { code: disk.full }))
            : write(parts, at);
        return file;
      },
    };
    const told: Problem[] = [];
    const space = new OverlaySpace(plenty);
    const full = (problem: Problem): void => void told.push(problem);
    const overlay = await Overlay.open({ files: filling, paths: pathsIn(directory), point, base, space, full });
    await overlay.write(Buffer.alloc(pageBytes, 1), 0, true);
    expect(overlay.trouble).toBeNull();
    disk.full = 'ENOSPC';
    await expect(overlay.write(Buffer.alloc(100, 2), 5 * pageBytes + 7, true)).rejects.toMatchObject({
      code: 'ENOSPC',
      remedy: expect.stringContaining('make room on the file system') as unknown,
    });
    expect(told.map(({ code }) => code)).toEqual(['ENOSPC']);
    expect(overlay.trouble).toEqual({ why: 'file-system', bytes: pageBytes });
    const bytes = await whole(overlay);
    expect([0, 5].map((page) => bytes[page * pageBytes + 7])).toEqual([1, 0x22]);
    disk.full = 'EDQUOT';
    await expect(overlay.write(Buffer.alloc(100, 2), 5 * pageBytes + 7, true)).rejects.toMatchObject({
      code: 'ENOSPC',
      remedy: expect.stringContaining('quota') as unknown,
    });
    disk.full = false;
    // A write that needs no room says nothing of it.
    await overlay.write(Buffer.alloc(pageBytes, 1), 0, true);
    expect(overlay.trouble).toEqual({ why: 'quota', bytes: pageBytes });
    await overlay.write(Buffer.alloc(100, 2), 5 * pageBytes + 7, true);
    expect(overlay.trouble).toBeNull();
    expect((await whole(overlay))[5 * pageBytes + 7]).toBe(2);
    expect(told.length).toBe(2);
    await overlay.close();
  });

  it('loses nothing of a page that several fill from the point at once', async () => {
    const content = patchyContent(4 * pageBytes, 9);
    const base = new MemoryBackend(Buffer.from(content), {
      readOnly: true,
      before: () => new Promise((resolve) => setTimeout(resolve, 1)),
    });
    const overlay = await made(base);
    const model = Buffer.from(content);
    await Promise.all(
      Array.from({ length: 8 }, (_, no) => {
        model.fill(no + 1, pageBytes + no * 512, pageBytes + no * 512 + 500);
        return overlay.write(Buffer.alloc(500, no + 1), pageBytes + no * 512, false);
      }),
    );
    expect((await whole(overlay)).equals(model)).toBe(true);
    await overlay.close();
  });

  it('is refused when its map is of another point or disk, or damaged', async () => {
    const base = readOnly(Buffer.alloc(8 * pageBytes));
    const overlay = await made(base);
    await overlay.write(Buffer.alloc(10, 1), 0, true);
    await overlay.write(Buffer.alloc(10, 1), pageBytes, true);
    await overlay.close();
    const space = new OverlaySpace(plenty);
    const open = (over: Partial<Parameters<typeof Overlay.open>[0]>) =>
      Overlay.open({ files, paths: pathsIn(directory), point, base, space, ...over });
    await expect(open({ point: 8 })).rejects.toMatchObject({ code: 'damaged' });
    await expect(open({ base: readOnly(Buffer.alloc(9 * pageBytes)) })).rejects.toMatchObject({ code: 'damaged' });
    const map = pathsIn(directory).map;
    const file = await files.open(map, 'write');
    for (const slot of [0, 1]) await file.write([Buffer.from([0xee])], pageBytes * (1 + slot) + 1000);
    await file.close();
    await expect(open({})).rejects.toMatchObject({ code: 'damaged' });
  });

  it('of a huge disk costs what is written', async () => {
    const size = 4 * 2 ** 40;
    const zeros = {
      size,
      readOnly: true,
      multiConnection: true,
      preferredBytes: 4096,
      read: (into: Uint8Array) => Promise.resolve(void into.fill(0)),
      write: () => Promise.reject(new Error('read-only')),
      zero: () => Promise.reject(new Error('read-only')),
      flush: () => Promise.resolve(),
      extents: (_: number, length: number) => Promise.resolve([{ length, zero: true, hole: true }]),
    };
    await createOverlay(files, pathsIn(directory), { point, diskSize: size });
    const open = () =>
      Overlay.open({ files, paths: pathsIn(directory), point, base: zeros, space: new OverlaySpace(plenty) });
    const overlay = await open();
    await overlay.write(Buffer.from('there'), size - 4096, true);
    await overlay.close();
    const again = await open();
    const bytes = Buffer.alloc(5);
    await again.read(bytes, size - 4096);
    expect(bytes.toString()).toBe('there');
    expect(await again.extents(size - 2 ** 31, 2 ** 31)).toHaveLength(2);
    await again.close();
    for (const file of Object.values(pathsIn(directory))) expect((await stat(file)).blocks * 512).toBeLessThan(65_536);
  });

  it('leaves the file of the overlay sparse', async () => {
    const base = readOnly(Buffer.alloc(1024 * pageBytes, 1));
    const overlay = await made(base);
    await overlay.write(Buffer.alloc(pageBytes, 9), 500 * pageBytes, true);
    await overlay.close();
    expect((await stat(pathsIn(directory).overlay)).blocks * 512).toBeLessThanOrEqual(8 * pageBytes);
    expect((await readFile(pathsIn(directory).overlay)).indexOf(9)).toBe(500 * pageBytes);
  });
});

describe('a set of pages', () => {
  it('says the same as a plain array, over the borders of its chunks', () => {
    const start = chunkPages - 40;
    const plain: boolean[] = Array.from({ length: 80 }, () => false);
    const set = new PageSet();
    let state = 12_345;
    const dice = (limit: number): number => (state = (state * 48_271) % 2_147_483_647) % limit;
    for (let round = 0; round < 400; round += 1) {
      const from = dice(80);
      const end = from + dice(81 - from);
      const to = dice(2) === 0;
      if (to) set.add(start + from, start + end);
      else set.delete(start + from, start + end);
      plain.fill(to, from, end);
      const at = dice(80);
      const other = plain.findIndex((value, index) => index > at && value !== plain[at]);
      expect(set.has(start + at)).toBe(plain[at]);
      expect(set.alike(start + at, start + 80)).toBe(start + (other === -1 ? 80 : other));
      expect(set.count(start + from, start + 80)).toBe(plain.slice(from).filter(Boolean).length);
    }
  });
});
