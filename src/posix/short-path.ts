/**
 * The address of a Unix socket has room for 107 bytes, and a directory may lie deeper. Through a descriptor of the directory its path is a few
 * bytes, for this process: `/proc/self/fd/N`.
 */
import { closeSync, constants, openSync } from 'node:fs';

export interface ShortPath {
  readonly path: string;
  /** Gives the descriptor back. Idempotent. */
  close(): void;
}

export function shortPathOf(directory: string): ShortPath {
  const fd = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  let open = true;
  return {
    path: `/proc/self/fd/${fd}`,
    close: () => {
      if (open) closeSync(fd);
      open = false;
    },
  };
}
