/**
 * A block device for oneself alone. O_EXCL on a block device is the kernel's claim: it is refused while the device is mounted, swapped on, or part of
 * a volume or an array, and as long as it is held nobody can mount it. It binds those who ask for it and no plain writer.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { messageOf, Problem, systemCode } from '../kit/problem.ts';

export interface Claim {
  /** Idempotent. */
  release(): void;
}

/** @throws Problem `locked` when it is in use, `not-writable`. */
export function claimBlockDevice(path: string): Claim {
  let fd: number | null;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_EXCL);
  } catch (cause) {
    if (systemCode(cause) === 'EBUSY') {
      const remedy = 'unmount it, or take it out of what uses it (lsblk shows that), then run it again';
      throw new Problem('locked', `${path} is mounted or in use`, { remedy, cause });
    }
    throw new Problem('not-writable', `${path}: ${messageOf(cause)}`, {
      remedy: 'make the device writable for this program, or choose another one',
      cause,
    });
  }
  return {
    release: () => {
      if (fd !== null) closeSync(fd);
      fd = null;
    },
  };
}
