/**
 * The disk image (a file or a block device) under the write splitter: opened with answers a person can act on, its errors turned into
 * what an NBD client understands.
 *
 * Invariants: `zero` really makes zeros. A sync that failed is not tried again (C4); the file refuses everything after it.
 */
import { invariant } from '../kit/invariant.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import { MiB } from '../kit/sizes.ts';
import type { Geometry } from '../disk/geometry.ts';
import type { File, Files } from '../posix/files.ts';
import type { QuickReads } from './quick-reads.ts';

const zeros = new Uint8Array(MiB);

const purposes = { write: 'writing', read: 'reading' } as const;

/** @throws Problem `not-found`, `bad-image`; both retryable where the image is only read: a snapshot may be away between two cycles. */
export async function openImage(files: Files, path: string, mode: 'read' | 'write'): Promise<File> {
  let file: File;
  try {
    file = await files.open(path, mode);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENXIO') {
      throw new Problem('not-found', `the disk image ${path} does not exist`, {
        remedy: 'check the path in the configuration, or create the image (truncate -s)',
        retryable: mode === 'read',
        cause: error,
      });
    }
    throw new Problem(
      'bad-image',
      `the disk image ${path} can not be opened for ${purposes[mode]}: ${messageOf(error)}`,
      {
        remedy: `give this user ${mode === 'read' ? 'read access' : 'read and write access'} to a regular file or block device`,
        retryable: mode === 'read',
        cause: error,
      },
    );
  }
  const { kind } = file.facts();
  if (kind === 'file' || kind === 'block-device') return file;
  await file.close();
  throw new Problem('bad-image', `${path} is neither a regular file nor a block device`, {
    remedy: 'name the disk image itself',
  });
}

/** Fills `into`; the image must reach that far. */
export async function readWhole(file: File, into: Uint8Array, offset: number): Promise<void> {
  const got = await file.read(into, offset);
  if (got !== into.byteLength)
    throw new Problem('EIO', `${file.path} ends at ${offset + got}: it was made smaller while in use`);
}

/** Reads as many whole blocks as `into` holds, from `first` on; what lies past the end of the disk is zero. `quick` reads what is cached. */
export async function readBlocksOf(
  file: File,
  geometry: Geometry,
  first: number,
  into: Uint8Array,
  quick?: QuickReads,
): Promise<void> {
  const { size, blockSize, blockCount } = geometry;
  const start = first * blockSize;
  const whole = into.byteLength % blockSize === 0 && start + into.byteLength <= blockCount * blockSize;
  invariant(whole && into.byteLength > 0, 'whole blocks of the disk are read');
  const onDisk = Math.min(into.byteLength, size - start);
  const part = into.subarray(0, onDisk);
  if (quick?.tryRead(part, start) !== true) await readWhole(file, part, start);
  into.fill(0, onDisk);
}

/** Makes the range read as zeros; releases the space if that is allowed and possible. */
export async function zeroRange(file: File, offset: number, length: number, mayUnmap: boolean): Promise<void> {
  if (mayUnmap && file.punchHoleSync(offset, length)) return;
  for (let done = 0; done < length; done += zeros.byteLength) {
    await file.write([zeros.subarray(0, Math.min(zeros.byteLength, length - done))], offset + done);
  }
}

const passedOn = new Set(['EIO', 'ENOSPC', 'EINVAL', 'EPERM', 'ESHUTDOWN']);

/** An image's error as the Problem a backend may throw (nbd/backend.ts, rule 2). */
export function backendProblem(error: unknown): Problem {
  if (isProblem(error) && passedOn.has(error.code)) return error;
  const code = systemCode(error);
  const full = code === 'ENOSPC' || code === 'EDQUOT';
  return new Problem(full ? 'ENOSPC' : 'EIO', messageOf(error), { cause: error });
}
