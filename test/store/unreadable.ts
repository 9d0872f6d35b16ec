/** Files with a sector that the disk does not give back. */
import { posixFiles, type File, type Files } from '../../src/posix/files.ts';

/** Reads of `path` that touch the byte fail as those of a broken disk do. */
export function unreadable(path: string, at: { readonly offset: number; readonly broken: () => boolean }): Files {
  return {
    ...posixFiles,
    open: async (opened, mode, permissions) => {
      const file = await posixFiles.open(opened, mode, permissions);
      if (mode !== 'read' || opened !== path) return file;
      const read: File['read'] = (into, position) =>
        at.broken() && position <= at.offset && position + into.byteLength > at.offset
          ? Promise.reject(Object.assign(new Error('i/o error'), { code: 'EIO' }))
          : file.read(into, position);
      return new Proxy(file, {
        get: (target, key) => {
          if (key === 'read') return read;
          // What a broken disk holds is in no cache.
          if (key === 'readCachedSync' && at.broken()) return () => false;
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === 'function' ? (value.bind(target) as unknown) : value;
        },
      });
    },
  };
}
