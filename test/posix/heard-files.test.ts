/** No refusal of the system passes unheard, whichever door it came through; answers are no refusals. */
import { expect, test } from 'vitest';
import { Problem } from '../../src/kit/problem.ts';
import { posixFiles, type File, type Files } from '../../src/posix/files.ts';
import { heardFiles, type FileFault } from '../../src/posix/heard-files.ts';
import { systemError } from '../simulated-file.ts';
import { SimulatedFiles } from '../simulated-files.ts';

/** Throws at every call of a method, as the method does: on the calling thread, or later. */
function refusing<T extends object>(real: T, error: Error, isSync: (method: string) => boolean): T {
  return new Proxy(real, {
    get: (target, name) => {
      const found: unknown = Reflect.get(target, name);
      if (typeof found !== 'function' || typeof name !== 'string') return found;
      return () => {
        if (isSync(name)) throw error;
        return Promise.reject(error);
      };
    },
  });
}

const calls: Readonly<Record<keyof Files, (files: Files) => Promise<unknown>>> = {
  open: (files) => files.open('/a', 'create'),
  readWhole: (files) => files.readWhole('/a'),
  replaceFile: (files) => files.replaceFile('/a', new Uint8Array(1)),
  exists: (files) => files.exists('/a'),
  facts: (files) => files.facts('/a'),
  list: (files) => files.list('/a'),
  makeDirectory: (files) => files.makeDirectory('/a'),
  rename: (files) => files.rename('/a', '/b'),
  remove: (files) => files.remove('/a'),
  removeTree: (files) => files.removeTree('/a'),
  syncDirectory: (files) => files.syncDirectory('/a'),
  freeBytes: (files) => files.freeBytes('/a'),
};

const fileCalls: Readonly<Record<Exclude<keyof File, 'path' | 'dropCacheSync'>, (file: File) => unknown>> = {
  read: (file) => file.read(new Uint8Array(1), 0),
  readSync: (file) => file.readSync(new Uint8Array(1), 0),
  readCachedSync: (file) => file.readCachedSync(new Uint8Array(1), 0),
  write: (file) => file.write([new Uint8Array(1)], 0),
  writeSync: (file) => {
    file.writeSync(new Uint8Array(1), 0);
  },
  datasync: (file) => file.datasync(),
  truncate: (file) => file.truncate(0),
  allocateSync: (file) => {
    file.allocateSync(0, 1, false);
  },
  punchHoleSync: (file) => file.punchHoleSync(0, 1),
  extentSync: (file) => file.extentSync(0, 1),
  facts: (file) => file.facts(),
  close: (file) => file.close(),
};

test('every operation on a name is listened at, and still throws what it threw', async () => {
  expect(Object.keys(calls).sort()).toEqual(Object.keys(posixFiles).sort());
  const error = systemError('EIO', 'of the test');
  const heard: FileFault[] = [];
  const files = heardFiles(
    refusing(posixFiles, error, () => false),
    (fault) => void heard.push(fault),
  );
  for (const [name, call] of Object.entries(calls)) {
    await expect(call(files), name).rejects.toBe(error);
    expect(heard.splice(0), name).toEqual([expect.objectContaining({ path: '/a', code: 'EIO' })]);
  }
});

test('every operation on a file is listened at, and still throws what it threw', async () => {
  const error = systemError('ENOSPC', 'of the test');
  const heard: FileFault[] = [];
  const simulated = new SimulatedFiles();
  const isSync = (method: string): boolean => method.endsWith('Sync') || method === 'facts';
  const opens: Files = {
    ...posixFiles,
    open: async (path, mode) => refusing(await simulated.open(path, mode), error, isSync),
  };
  const file = await heardFiles(opens, (fault) => void heard.push(fault)).open('/a', 'create');
  for (const [name, call] of Object.entries(fileCalls)) {
    await expect((async () => call(file))(), name).rejects.toBe(error);
    expect(heard.splice(0), name).toEqual([expect.objectContaining({ path: '/a', code: 'ENOSPC' })]);
  }
});

test('a sync that failed is heard once, with what the system said; what the door refuses afterwards is not', async () => {
  const heard: FileFault[] = [];
  const files = new SimulatedFiles();
  const file = await heardFiles(files, (fault) => void heard.push(fault)).open('/a', 'create');
  files.fault = (operation) => (operation === 'datasync' ? { code: 'EIO' } : null);
  await expect(file.datasync()).rejects.toMatchObject({ code: 'sync-failed' });
  files.fault = () => null;
  await expect(file.datasync()).rejects.toMatchObject({ code: 'sync-failed' });
  expect(() => {
    file.writeSync(new Uint8Array(1), 0);
  }).toThrow(Problem);
  expect(heard).toEqual([{ operation: 'datasync', path: '/a', code: 'EIO' }]);
});

test('that there is no such file, or one already, or that a file is closed, is an answer and no fault', async () => {
  const heard: FileFault[] = [];
  const files = heardFiles(new SimulatedFiles(), (fault) => void heard.push(fault));
  await expect(files.open('/a', 'read')).rejects.toMatchObject({ code: 'ENOENT' });
  const file = await files.open('/a', 'create');
  await expect(files.open('/a', 'exclusive')).rejects.toMatchObject({ code: 'EEXIST' });
  await file.close();
  await expect(file.datasync()).rejects.toMatchObject({ code: 'closed' });
  expect(heard).toEqual([]);
});
