/**
 * Export of a point to a raw image: a sparse file, or a block device.
 *
 * A file is written as `<name>.part` and gets its name when all of it was checked and is durable, so a file of that name is a whole, proven disk.
 * What was cut short leaves its `.part`, and the next export to that name goes on with it, whatever wrote it (`export-copy.ts`): of the same
 * point nothing is written twice, of another one what differs is replaced, and one of another size is begun anew.
 *
 * Invariants:
 *  1. `.part` is removed when it can not be gone on with: the point is damaged, or a sync failed (C4: what is read back then proves nothing). It is
 *     kept for whom it spares work: after a signal, without space, when the store could not be read.
 *  2. One export writes a `.part` or a device at a time.
 *  3. A device is claimed from everybody else (`device-claim.ts`), must be large enough, and keeps what lies behind the end of the disk.
 */
import * as path from 'node:path';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { claimBlockDevice } from '../posix/device-claim.ts';
import type { File, Files } from '../posix/files.ts';
import { acquireLock } from '../posix/lock.ts';
import { ExportCopy, type Copied, type CopyOptions } from './export-copy.ts';
import type { PointImage } from './point-image.ts';

export interface ExportOptions extends Omit<CopyOptions, 'empty'> {
  readonly files: Files;
  readonly clock: Clock;
  readonly to: string;
  /** Replace a file, or what is on a device. */
  readonly overwrite: boolean;
}

/**
 * The image's leaves are checked first.
 * @throws Problem `damaged`, `read-failed`, `full`, `interrupted`, `bad-argument`, `locked`, `not-writable`.
 */
export async function exportRaw(image: PointImage, options: ExportOptions): Promise<Copied> {
  const { files, to } = options;
  const isDevice = await checkDestination(files, options);
  await image.checkLeaves();
  if (isDevice) return exportToDevice(image, options);
  return exportAs(options, true, async (partial) => {
    const file = await openAt(files, partial, 'create');
    try {
      const { size } = file.facts();
      const empty = size !== image.geometry.size;
      if (empty) await file.truncate(0);
      await file.truncate(image.geometry.size);
      return await fill(image, file, { ...options, empty });
    } catch (error) {
      throw failure(error, partial, to);
    } finally {
      await file.close();
    }
  });
}

/** Whether it is a block device. @throws Problem `bad-argument` when something is there that must not be replaced. */
export async function checkDestination(
  files: Files,
  { to, overwrite }: Pick<ExportOptions, 'to' | 'overwrite'>,
): Promise<boolean> {
  if (!(await files.exists(to))) return false;
  const { kind } = await files.facts(to);
  if (kind === 'directory' || kind === 'other') {
    throw new Problem('bad-argument', `${to} is neither a file nor a block device`, { remedy: 'name a file in it' });
  }
  if (overwrite) return kind === 'block-device';
  if (kind === 'file')
    throw new Problem('bad-argument', `${to} exists`, { remedy: 'choose another file or pass --yes' });
  throw new Problem('bad-argument', `${to} is a block device: everything on it would be lost`, {
    remedy: 'pass --yes if that is the right device',
  });
}

/** Has `write` make `<to>.part` (locked, invariant 2), durable when it resolves, and gives it its name. `goesOn`: it can be gone on with. */
export async function exportAs<T>(
  { files, clock, to }: Pick<ExportOptions, 'files' | 'clock' | 'to'>,
  goesOn: boolean,
  write: (partial: string) => Promise<T>,
): Promise<T> {
  const partial = `${to}.part`;
  await (await openAt(files, partial, 'create')).close();
  const since = new Date(clock.wallMs()).toISOString();
  const lock = await acquireLock(files, clock, partial, { pid: process.pid, role: 'export', since });
  try {
    const written = await write(partial);
    await files.rename(partial, to);
    await files.syncDirectory(path.dirname(to));
    return written;
  } catch (error) {
    if (!goesOn || !isProblem(error) || !isKept(error)) await files.remove(partial);
    throw error;
  } finally {
    await lock.release();
  }
}

/** Invariant 1. */
function isKept({ code }: Problem): boolean {
  return code === 'interrupted' || code === 'full' || code === 'read-failed';
}

async function exportToDevice(image: PointImage, options: ExportOptions): Promise<Copied> {
  const { files, to } = options;
  const claim = claimBlockDevice(to);
  try {
    const file = await openAt(files, to, 'write');
    try {
      const { size } = file.facts();
      if (size < image.geometry.size) {
        throw new Problem('bad-argument', `${to} has ${size} bytes, the disk ${image.geometry.size}`, {
          remedy: 'choose a device that is at least as large as the disk',
        });
      }
      return await fill(image, file, { ...options, empty: false });
    } catch (error) {
      throw failure(error, to, to);
    } finally {
      await file.close();
    }
  } finally {
    claim.release();
  }
}

async function fill(image: PointImage, file: File, options: CopyOptions): Promise<Copied> {
  if (!options.empty) {
    // What is compared has to come from the disk (C4).
    await file.datasync();
    file.dropCacheSync(0, image.geometry.size);
  }
  const copied = await new ExportCopy(image, file, options).run();
  await file.datasync();
  return copied;
}

async function openAt(files: Files, name: string, mode: 'create' | 'write'): Promise<File> {
  try {
    return await files.open(name, mode, 0o600);
  } catch (error) {
    throw failure(error, name, name);
  }
}

/** As a Problem that says what to do: system errors here are those of the destination. */
export function failure(error: unknown, place: string, to: string): unknown {
  const goOn = place === to ? 'run it again to go on' : `what is done is kept in ${place}: run it again to go on`;
  if (isProblem(error) && error.code === 'interrupted')
    return new Problem('interrupted', `the export to ${to} was interrupted`, { remedy: goOn, retryable: true });
  if (isProblem(error) && error.code !== 'sync-failed') return error;
  const code = systemCode(error);
  if (code === undefined) return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new Problem('full', `${to}: no space left`, { remedy: `make room there; ${goOn}`, cause: error });
  }
  return new Problem('not-writable', `${to}: ${messageOf(error)}`, {
    remedy: 'check that the place exists, can be written to, and that its disk is healthy',
    cause: error,
  });
}
