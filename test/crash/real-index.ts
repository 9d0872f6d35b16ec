/**
 * A simulated disk under a machine's store, but for what LMDB maps: `data.mdb` and its lock lie on the real disk, at the same path. The
 * index is a cache, so after a crash a test may leave any of it there: what it was, nothing, or rubbish.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import type { SimulatedFiles } from '../simulated-files.ts';

function isMapped(filePath: string): boolean {
  return filePath.endsWith('.mdb');
}

export function withRealIndex(simulated: SimulatedFiles): Files {
  const whose = (filePath: string): Files => (isMapped(filePath) ? posixFiles : simulated);
  return {
    open: (filePath, mode, permissions) => whose(filePath).open(filePath, mode, permissions),
    readWhole: (filePath) => simulated.readWhole(filePath),
    replaceFile: (filePath, bytes) => simulated.replaceFile(filePath, bytes),
    exists: (filePath) => whose(filePath).exists(filePath),
    facts: (filePath) => whose(filePath).facts(filePath),
    list: (directory) => simulated.list(directory),
    makeDirectory: async (directory) => {
      // LMDB and the lock look at the real one.
      mkdirSync(directory, { recursive: true });
      await simulated.makeDirectory(directory);
    },
    rename: (from, to) => simulated.rename(from, to),
    remove: (filePath) => whose(filePath).remove(filePath),
    removeTree: (filePath) => simulated.removeTree(filePath),
    syncDirectory: (directory) => simulated.syncDirectory(directory),
    freeBytes: () => simulated.freeBytes(),
  };
}

/** The bytes LMDB has mapped now, or null. */
export function mappedBytes(index: string): Buffer | null {
  try {
    return readFileSync(path.join(index, 'data.mdb'));
  } catch {
    return null;
  }
}

export function leaveMapped(index: string, bytes: Buffer | null): void {
  rmSync(index, { recursive: true, force: true });
  if (bytes === null) return;
  mkdirSync(index, { recursive: true });
  writeFileSync(path.join(index, 'data.mdb'), bytes);
}
