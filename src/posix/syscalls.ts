/**
 * The few libc calls Node lacks, through koffi. Where koffi or libc can not be loaded the fallbacks are: no preallocation,
 * `punchHoleSync` answers false (callers write zeros), `lockSync` does not know, nothing is ever known to be cached, and a block device reports
 * its size by binary search on reads.
 */
import { readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

const keepSizeFlag = 0x01;
const punchHoleFlag = 0x02;
const seekData = 3;
const seekHole = 4;
const seekEnd = 2;
const lockExclusive = 2;
const lockNonBlocking = 4;
const adviceDontNeed = 4;
/** RWF_NOWAIT of preadv2(2). */
const noWaitFlag = 8;

interface Libc {
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  lseek(fd: number, offset: number, whence: number): number;
  flock(fd: number, operation: number): number;
  fadvise(fd: number, offset: number, length: number, advice: number): number;
  /** preadv2(2) of one part that does not wait; −1 with any errno where that can not be. */
  readNoWait(fd: number, into: Uint8Array, position: number): number;
  errno(): number;
}

function loadLibc(): Libc | undefined {
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
    const libc = koffi.load('libc.so.6');
    const fallocate = libc.func('int fallocate(int, int, int64_t, int64_t)');
    const lseek = libc.func('int64_t lseek(int, int64_t, int)');
    const flock = libc.func('int flock(int, int)');
    const fadvise = libc.func('int posix_fadvise(int, int64_t, int64_t, int)');
    const preadv2 = libc.func('int64_t preadv2(int, void *, int, int64_t, int)');
    /** One struct iovec. */
    const part = new BigUint64Array(2);
    return {
      fallocate: (fd, mode, offset, length) => Number(fallocate(fd, mode, offset, length)),
      lseek: (fd, offset, whence) => Number(lseek(fd, offset, whence)),
      flock: (fd, operation) => Number(flock(fd, operation)),
      fadvise: (fd, offset, length, advice) => Number(fadvise(fd, offset, length, advice)),
      readNoWait: (fd, into, position) => {
        part[0] = koffi.address(into);
        part[1] = BigInt(into.byteLength);
        return Number(preadv2(fd, part, 1, position, noWaitFlag));
      },
      errno: () => koffi.errno(),
    };
  } catch {
    return undefined;
  }
}

const libc = loadLibc();

function systemError(libcNow: Libc, what: string): Error {
  const code = getSystemErrorName(-libcNow.errno());
  return Object.assign(new Error(`${code}: ${what}`), { code });
}

const unsupported = new Set(['EOPNOTSUPP', 'ENOSYS', 'ENODEV', 'EINVAL', 'ESPIPE', 'ENOTSUP']);

/** fallocate(2). Silent where unsupported; throws ENOSPC, EIO, …. */
export function allocateSync(fd: number, position: number, length: number, keepSize: boolean): void {
  if (!libc) return;
  if (libc.fallocate(fd, keepSize ? keepSizeFlag : 0, position, length) === 0) return;
  const error = systemError(libc, 'fallocate');
  if (!unsupported.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
}

/** Punches a hole; false where the file system can not. */
export function punchHoleSync(fd: number, position: number, length: number): boolean {
  if (!libc || length === 0) return length === 0;
  if (libc.fallocate(fd, punchHoleFlag | keepSizeFlag, position, length) === 0) return true;
  const error = systemError(libc, 'fallocate punch hole');
  if (unsupported.has((error as NodeJS.ErrnoException).code ?? '')) return false;
  throw error;
}

/** posix_fadvise(DONTNEED): advice, so nothing is said of its success. Pages that are dirty or mapped stay. */
export function dropCacheSync(fd: number, position: number, length: number): void {
  libc?.fadvise(fd, position, length, adviceDontNeed);
}

/**
 * Fills `into` if all of it is in the page cache. False: it is not, or the kernel, the file system or the end of the file says no; the way
 * that waits then tells which.
 */
export function readCached(fd: number, into: Uint8Array, position: number): boolean {
  return libc?.readNoWait(fd, into, position) === into.byteLength;
}

/** The first offset ≥ `position` where data begins (`data`) or a hole begins (`hole`); undefined when there is none, or no support. */
export function seekSync(fd: number, position: number, to: 'data' | 'hole'): number | undefined {
  if (!libc) return undefined;
  const found = libc.lseek(fd, position, to === 'data' ? seekData : seekHole);
  return found >= 0 ? found : undefined;
}

/**
 * Takes flock(2), exclusive, for an open descriptor; the kernel gives it back when the descriptor is closed or its process dies. Undefined
 * where there is no support.
 */
export function lockSync(fd: number): 'locked' | 'refused' | undefined {
  if (!libc) return undefined;
  if (libc.flock(fd, lockExclusive | lockNonBlocking) === 0) return 'locked';
  return getSystemErrorName(-libc.errno()) === 'EAGAIN' ? 'refused' : undefined;
}

/** Capacity of an open block device in bytes. */
export function blockDeviceSizeSync(fd: number): number {
  if (libc) {
    const end = libc.lseek(fd, 0, seekEnd);
    if (end >= 0) return end;
  }
  const probe = Buffer.alloc(512);
  const readable = (sector: number): boolean => {
    try {
      return readSync(fd, probe, 0, 512, sector * 512) === 512;
    } catch {
      return false;
    }
  };
  let low = 0;
  let high = 1;
  while (readable(high)) high *= 2;
  while (low + 1 < high) {
    const middle = Math.floor((low + high) / 2);
    if (readable(middle)) low = middle;
    else high = middle;
  }
  return readable(0) ? (low + 1) * 512 : 0;
}
