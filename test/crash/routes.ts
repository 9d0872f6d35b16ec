/** Stands in front of the real file system and hands each path to whoever has claimed it. Used through `vi.mock`, which has to stand in the test file. */
import type { Files } from '../../src/posix/files.ts';

export const routes: { claim: (filePath: string) => Files | null } = { claim: () => null };

export function routed(real: Files): Files {
  const whose = (filePath: string): Files => routes.claim(filePath) ?? real;
  return {
    open: (filePath, mode, permissions) => whose(filePath).open(filePath, mode, permissions),
    readWhole: (filePath) => whose(filePath).readWhole(filePath),
    replaceFile: (filePath, bytes, permissions) => whose(filePath).replaceFile(filePath, bytes, permissions),
    exists: (filePath) => whose(filePath).exists(filePath),
    facts: (filePath) => whose(filePath).facts(filePath),
    list: (directory) => whose(directory).list(directory),
    makeDirectory: (directory) => whose(directory).makeDirectory(directory),
    rename: (from, to) => whose(from).rename(from, to),
    remove: (filePath) => whose(filePath).remove(filePath),
    removeTree: (filePath) => whose(filePath).removeTree(filePath),
    syncDirectory: (directory) => whose(directory).syncDirectory(directory),
    freeBytes: (filePath) => whose(filePath).freeBytes(filePath),
  };
}
