/**
 * The disk that is measured: every block its own content, half of it random and half text, none of it zero, so that nobody gains by blocks that
 * repeat, and the same from the same seed. And what is changed behind everybody's back: whole blocks at random places, to random bytes.
 */
import { createCipheriv, createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import * as path from 'node:path';

export const blockBytes = 65_536;
const chunkBlocks = 64;
const halfBytes = blockBytes / 2;

/** Endless pseudo-random bytes, the same for the same seed and purpose. */
export function streamOf(seed: number, purpose: string): (bytes: number) => Buffer {
  const key = createHash('sha256').update(`${seed} ${purpose}`).digest();
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
  return (bytes) => cipher.update(Buffer.alloc(bytes));
}

function line(block: number): Buffer {
  return Buffer.from(`block ${block} of the disk that is measured, line after line of it, `);
}

/** Writes `size` bytes (a multiple of 64 KiB) to `file`. */
export async function makeContent(file: string, size: number, seed: number): Promise<void> {
  const random = streamOf(seed, 'content');
  const out = await open(file, 'w');
  try {
    for (let first = 0; first < size / blockBytes; first += chunkBlocks) {
      const count = Math.min(chunkBlocks, size / blockBytes - first);
      const chunk = Buffer.alloc(count * blockBytes);
      for (let index = 0; index < count; index += 1) {
        random(halfBytes).copy(chunk, index * blockBytes);
        chunk.fill(line(first + index), index * blockBytes + halfBytes, (index + 1) * blockBytes);
      }
      await out.write(chunk, 0, chunk.length, first * blockBytes);
    }
    await out.sync();
  } finally {
    await out.close();
  }
}

/** `share` of the blocks of a disk, at random places, ascending; at least one. */
export function chooseBlocks(size: number, share: number, seed: number): readonly number[] {
  const random = streamOf(seed, 'places');
  const blocks = size / blockBytes;
  const chosen = new Set<number>();
  while (chosen.size < Math.max(1, Math.round(blocks * share))) chosen.add(random(4).readUInt32LE(0) % blocks);
  return [...chosen].sort((a, b) => a - b);
}

/** Gives these blocks of `file` other content; the same for the same seed. */
export async function changeBlocks(file: string, blocks: readonly number[], seed: number): Promise<void> {
  const random = streamOf(seed, 'changes');
  const out = await open(file, 'r+');
  try {
    for (const block of blocks) await out.write(random(blockBytes), 0, blockBytes, block * blockBytes);
    await out.sync();
  } finally {
    await out.close();
  }
}

/** Copies these blocks from one file to the other, which is made if there is none. */
export async function copyBlocks(from: string, to: string, blocks: readonly number[]): Promise<void> {
  const [source, target] = [await open(from, 'r'), await open(to, constants.O_RDWR | constants.O_CREAT)];
  try {
    const buffer = Buffer.alloc(blockBytes);
    for (const block of blocks) {
      await source.read(buffer, 0, blockBytes, block * blockBytes);
      await target.write(buffer, 0, blockBytes, block * blockBytes);
    }
    await target.sync();
  } finally {
    await source.close();
    await target.close();
  }
}

/** Reads files from end to end, so that every measurement finds them in the page cache. */
export async function warm(...files: readonly string[]): Promise<void> {
  const buffer = Buffer.alloc(4 * 1024 * 1024);
  for (const name of files) {
    const file = await open(name, 'r');
    try {
      while ((await file.read(buffer, 0, buffer.length, null)).bytesRead > 0);
    } finally {
      await file.close();
    }
  }
}

const sourceTrees = ['/usr/lib', '/usr/share', '/usr/bin', '/usr/include'];
const pieceBytes = 4 * 1024 * 1024;

/** Regular files below the trees, breadth first. */
async function* realFiles(): AsyncGenerator<string> {
  const queue = [...sourceTrees];
  for (let at = 0; at < queue.length; at += 1) {
    const directory = queue[at] ?? '';
    const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
    for (const entry of entries.sort((a, b) => a.name.localeCompare(b.name))) {
      const file = path.join(directory, entry.name);
      if (entry.isDirectory()) queue.push(file);
      else if (entry.isFile()) yield file;
    }
  }
}

/**
 * Writes `size` bytes to `file`: this machine's own programs, libraries and texts, one after another, from the begin again where they do not
 * suffice. Without a zero block in between: what is measured is work.
 */
export async function makeRealContent(file: string, size: number): Promise<void> {
  const out = await open(file, 'w');
  const piece = Buffer.alloc(pieceBytes);
  let at = 0;
  try {
    while (at < size) {
      const before = at;
      for await (const name of realFiles()) {
        if (at >= size) break;
        const from = await open(name, 'r').catch(() => null);
        for (let read = 1; from && read > 0 && at < size; at += read) {
          read = (await from.read(piece, 0, Math.min(pieceBytes, size - at), null)).bytesRead;
          await out.write(piece, 0, read, at);
        }
        await from?.close();
      }
      if (at === before) throw new Error(`there are no files to read below ${sourceTrees.join(', ')}`);
    }
    await out.sync();
  } finally {
    await out.close();
  }
}
