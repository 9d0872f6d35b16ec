import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { posixFiles } from '../../src/posix/files.ts';
import { requireTool, runToolOk } from '../tools.ts';

let home = '';
beforeEach(async () => {
  home = await mkdtemp(path.join(tmpdir(), 'tidemark-files-'));
});
afterEach(async () => {
  await rm(home, { recursive: true, force: true });
});

it('a write after close went into the next file that got the descriptor number', async () => {
  const first = await posixFiles.open(path.join(home, 'first'), 'exclusive');
  await first.close();
  const next = path.join(home, 'next');
  const second = await posixFiles.open(next, 'exclusive');
  const closed = { code: 'closed' };
  const bytes = Buffer.from('not yours');
  await expect(first.write([bytes], 0)).rejects.toMatchObject(closed);
  await expect(first.read(bytes, 0)).rejects.toMatchObject(closed);
  await expect(first.datasync()).rejects.toMatchObject(closed);
  await expect(first.truncate(100)).rejects.toMatchObject(closed);
  const sync = [
    () => first.writeSync(bytes, 0),
    () => first.readSync(bytes, 0),
    () => first.readCachedSync(bytes, 0),
    () => first.allocateSync(0, 4096, false),
    () => first.punchHoleSync(0, 4096),
    () => first.extentSync(0, 4096),
    () => first.dropCacheSync(0, 4096),
    () => first.facts(),
  ];
  for (const operation of sync) expect(operation).toThrow(expect.objectContaining(closed));
  await first.close();
  await second.close();
  expect((await readFile(next)).byteLength).toBe(0);
});

it('a close pulled the descriptor from under a write of many parts', async () => {
  const name = path.join(home, 'parts');
  const file = await posixFiles.open(name, 'exclusive');
  // More parts than one call takes, so that the write comes back for the descriptor.
  const parts = Array.from({ length: 5000 }, (_, index) => Buffer.alloc(16, index));
  const writing = file.write(parts, 0);
  const closings = [file.close(), file.close()];
  await writing;
  await Promise.all(closings);
  expect((await readFile(name)).equals(Buffer.concat(parts))).toBe(true);
});

it('what was written and synced is read again from the disk once the cache was dropped', async () => {
  const file = await posixFiles.open(path.join(home, 'cached'), 'exclusive');
  const bytes = Buffer.alloc(300_000, 'of the disk');
  await file.write([bytes], 0);
  file.dropCacheSync(0, bytes.byteLength);
  await file.datasync();
  file.dropCacheSync(4096, 8192);
  file.dropCacheSync(0, 2 ** 40);
  const found = Buffer.alloc(bytes.byteLength);
  await file.read(found, 0);
  expect(found.equals(bytes)).toBe(true);
  await file.close();
});

const mayTrace = requireTool('strace') && spawnSync('strace', ['-qq', '-o', '/dev/null', 'true']).status === 0;

/** Runs `code` on an open `file` in a process whose system calls fail as told: what it prints, and the calls that it made. */
async function underFaults(faults: readonly string[], code: string): Promise<{ printed: unknown; calls: string[] }> {
  const trace = path.join(home, 'trace');
  const door = new URL('../../src/posix/files.ts', import.meta.url).href;
  const child = `
    const { posixFiles } = await import('${door}');
    const file = await posixFiles.open(process.argv[1], 'create');
    const outcomes = async (all) => (await Promise.allSettled(all)).map(({ status, reason }) => reason?.code ?? status);
    ${code}
    await file.close();`;
  // Calls are counted by thread: with one thread there is a first and a second.
  // And only the program's own count.
  const one = ['-E', 'UV_THREADPOOL_SIZE=1', '-E', 'NODE_DISABLE_COMPILE_CACHE=1'];
  const traced = [
    '-e',
    'trace=fdatasync,pwrite64,pwritev,ftruncate',
    ...faults.flatMap((each) => ['-e', `inject=${each}`]),
  ];
  const node = [process.execPath, '--input-type=module', '-e', child, path.join(home, 'subject')];
  const printed = await runToolOk('strace', ['-f', '-qq', '-o', trace, ...one, ...traced, ...node]);
  const calls = (await readFile(trace, 'utf8')).matchAll(/^\d+ +(\w+)\(/gm);
  return { printed: JSON.parse(printed), calls: [...calls].map(([, name]) => name ?? '') };
}

it.skipIf(!mayTrace)(
  'of two syncs at once one heard that the pages were lost, and the other that they were safe',
  async () => {
    const { printed, calls } = await underFaults(
      ['fdatasync:error=EIO:when=1'],
      `
    await file.write([Buffer.alloc(4096, 1)], 0);
    const together = await outcomes([file.datasync(), file.datasync(), file.datasync()]);
    const later = await outcomes([file.datasync(), file.write([Buffer.alloc(1)], 0), file.truncate(1)]);
    try { file.writeSync(Buffer.alloc(1), 0); } catch (error) { later.push(error.code); }
    process.stdout.write(JSON.stringify({ together, later }));`,
    );
    const failed = 'sync-failed';
    expect(printed).toEqual({ together: [failed, failed, failed], later: [failed, failed, failed, failed] });
    expect(calls).toEqual(['pwrite64', 'fdatasync']);
  },
);

it.skipIf(!mayTrace)('goes on behind what a short write took', async () => {
  // The first call takes 5,000 bytes (and, being simulated, leaves a hole there); the next one fails, and so the answer is short.
  const { printed, calls } = await underFaults(
    ['pwritev:retval=5000:when=1', 'pwrite64:error=EAGAIN:when=1'],
    `
    const parts = [Buffer.alloc(4096, 1), Buffer.alloc(100, 2), Buffer.alloc(4096, 3)];
    process.stdout.write(JSON.stringify(await outcomes([file.write(parts, 512)])));`,
  );
  expect(printed).toEqual(['fulfilled']);
  expect(calls).toEqual(['pwritev', 'pwrite64', 'pwrite64']);
  const expected = Buffer.concat([Buffer.alloc(512 + 5000), Buffer.alloc(4096 + 4196 - 5000, 3)]);
  expect((await readFile(path.join(home, 'subject'))).equals(expected)).toBe(true);
});
