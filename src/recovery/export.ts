/**
 * Export of a point to a raw, sparse file. Every block is checked against its leaf while it is written, the root over all of them against
 * the point at the end; the file gets its name only after that, so a file of that name is a whole, proven disk.
 */
import * as path from 'node:path';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { blockBytesOnDisk } from '../disk/geometry.ts';
import type { File, Files } from '../posix/files.ts';
import type { StoredEntry } from '../store/machine-view.ts';
import { RootBuilder, type PointImage } from './point-image.ts';

export interface ExportOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly to: string;
  readonly overwrite: boolean;
  readonly signal: AbortSignal;
  /** Bytes of the disk dealt with so far. */
  readonly progress: (doneBytes: number) => void;
}

/** Blocks read and written together. */
const blocksInFlight = 8;

/** Returns the bytes written; the rest are holes. @throws Problem `damaged`, `full`, `interrupted`, `bad-argument`. */
export async function exportRaw(image: PointImage, options: ExportOptions): Promise<number> {
  const { files, to, overwrite } = options;
  const device = (await files.exists(to)) ? await files.facts(to) : null;
  if (device?.kind === 'block-device') {
    throw new Problem('bad-argument', `${to} is a block device`, {
      remedy: 'export to a file, or use tidemark nbd and qemu-img convert',
    });
  }
  if (device !== null && !overwrite) {
    throw new Problem('bad-argument', `${to} exists`, { remedy: 'choose another file or pass --yes' });
  }
  await image.checkLeaves();
  const partial = `${to}.part`;
  await files.remove(partial);
  const file = await files.open(partial, 'exclusive', 0o600);
  try {
    await file.truncate(image.geometry.size);
    const written = await copyBlocks(image, file, options);
    await file.datasync();
    await file.close();
    await files.rename(partial, to);
    await files.syncDirectory(path.dirname(to));
    return written;
  } catch (error) {
    await file.close();
    await files.remove(partial);
    throw error;
  }
}

async function copyBlocks(image: PointImage, file: File, options: ExportOptions): Promise<number> {
  const { geometry } = image;
  const buffers = Array.from({ length: blocksInFlight }, () => Buffer.allocUnsafeSlow(geometry.blockSize));
  let written = 0;
  const builder = new RootBuilder(geometry);
  let group: StoredEntry[] = [];
  const flush = async (): Promise<void> => {
    // All of them end before the first failure is passed on: the caller then closes the file they write to.
    const outcomes = await Promise.allSettled(
      group.map(async (entry, index) => {
        const buffer = buffers[index];
        if (!buffer) return;
        await image.read(entry, buffer);
        const bytes = blockBytesOnDisk(geometry, entry.block);
        await file.write([buffer.subarray(0, bytes)], entry.block * geometry.blockSize);
        written += bytes;
      }),
    );
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
    const last = group.at(-1);
    if (last) options.progress(Math.min(geometry.size, (last.block + 1) * geometry.blockSize));
    group = [];
    await options.clock.turn();
    if (options.signal.aborted) {
      throw new Problem('interrupted', `the export to ${options.to} was interrupted`, {
        remedy: 'the unfinished file was removed; run it again',
      });
    }
  };
  for (const entry of image.entries()) {
    builder.add(entry.block, entry.leaf);
    if (entry.zero) continue;
    group.push(entry);
    if (group.length === blocksInFlight) await flush();
  }
  await flush();
  if (builder.root() !== image.at.root) throw image.wrongRoot();
  options.progress(geometry.size);
  return written;
}
