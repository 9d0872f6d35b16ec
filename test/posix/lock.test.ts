import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import * as net from 'node:net';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { acquireLock, lockHolder, type Lock } from '../../src/posix/lock.ts';

let home = '';
let image = '';
const children: ChildProcess[] = [];
const me = { pid: process.pid, role: 'agent', since: '2026-01-02T03:04:05.000Z' };
const lock = (path: string): Promise<Lock> => acquireLock(posixFiles, systemClock, path, me);

beforeEach(async () => {
  home = await mkdtemp(`${tmpdir()}/tidemark-lock-`);
  image = `${home}/disk.raw`;
  await writeFile(image, 'content');
});
afterEach(async () => {
  // Gone before the next test: a new file may get the inode number, and so the lock's name, of the one removed here.
  for (const child of children.splice(0)) {
    const gone = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : null;
    child.kill('SIGKILL');
    await gone;
  }
  await rm(home, { recursive: true, force: true });
});

const childCode = `
  const [, root, path] = process.argv;
  const { acquireLock } = await import(root + 'src/posix/lock.ts');
  const { posixFiles } = await import(root + 'src/posix/files.ts');
  const { systemClock } = await import(root + 'src/kit/clock.ts');
  const identity = { pid: process.pid, role: 'target', since: '2026-05-06T07:08:09.000Z' };
  try {
    await acquireLock(posixFiles, systemClock, path, identity);
    process.stdout.write('held');
    if (process.argv[3] === 'stay') setInterval(() => undefined, 1000);
  } catch (error) {
    process.stdout.write(error.code + ' ' + error.message);
  }
`;

/** A process that locks `path` and stays, or leaves; and the first thing it says. */
async function startHolder(
  path: string,
  stay: boolean,
  via: 'here' | 'another namespace' = 'here',
): Promise<{ child: ChildProcess; said: string }> {
  const root = new URL('../../', import.meta.url).href;
  const args = ['--input-type=module', '-e', childCode, root, path, stay ? 'stay' : 'leave'];
  const [program, rest] = via === 'here' ? [process.execPath, args] : ['unshare', ['-n', process.execPath, ...args]];
  const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  return { child, said: said.toString() };
}

it('refuses the second, naming the first, until the first gives it back', async () => {
  const first = await lock(image);
  await expect(lock(image)).rejects.toMatchObject({
    code: 'locked',
    message: `${image} is in use by agent, process ${process.pid}, since ${me.since}`,
  });
  expect((await startHolder(image, false)).said).toContain(`in use by agent, process ${process.pid}`);
  expect(await lockHolder(posixFiles, systemClock, image)).toEqual(me);
  await first.release();
  await first.release();
  expect(await lockHolder(posixFiles, systemClock, image)).toBeNull();
  await (await lock(image)).release();
});

it('is free the moment its holder is killed, and while it lives names it', async () => {
  const { child, said } = await startHolder(home, true);
  expect(said).toBe('held');
  await expect(lock(home)).rejects.toThrow(`in use by target, process ${child.pid ?? 0}, since 2026-05-06`);
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
  await (await lock(home)).release();
});

it('does not keep its holder alive', async () => {
  const { child, said } = await startHolder(image, false);
  expect(said).toBe('held');
  if (child.exitCode === null) await once(child, 'exit');
  expect(child.exitCode).toBe(0);
});

it('goes with the thing, not with its name', async () => {
  const held = await lock(image);
  await rename(image, `${home}/renamed.raw`);
  await writeFile(image, 'another');
  await (await lock(image)).release();
  await expect(lock(`${home}/renamed.raw`)).rejects.toMatchObject({ code: 'locked' });
  await held.release();
});

it('has one winner among many that start at once', async () => {
  const tries = await Promise.allSettled(Array.from({ length: 8 }, () => lock(image)));
  const won = tries.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  expect(won).toHaveLength(1);
  await won[0]?.release();
});

it('is refused by a holder that is stopped and can not answer', async () => {
  const { child } = await startHolder(image, true);
  child.kill('SIGSTOP');
  await expect(lock(image)).rejects.toThrow(/a process that does not answer/);
});

it('survives those who ask and say nothing, or ask too much', async () => {
  const held = await lock(image);
  const { device, inode } = await posixFiles.facts(image);
  const path = `\0tidemark-lock-f-${device.toString(16)}-${inode.toString(16)}`;
  const silent = Array.from({ length: 40 }, () => net.connect({ path }).on('error', () => undefined));
  for (const socket of silent) socket.write(Buffer.alloc(1 << 16));
  await expect(lock(image)).rejects.toMatchObject({ code: 'locked' });
  await held.release();
  for (const socket of silent) socket.destroy();
  await (await lock(image)).release();
});

it('says that the thing is missing', async () => {
  await expect(lock(`${home}/missing`)).rejects.toMatchObject({ code: 'ENOENT' });
});

const namespaces = spawnSync('unshare', ['-n', 'true']).status === 0;

it.skipIf(!namespaces)(
  'two containers on one volume did not see each other: the socket binds one network namespace only',
  async () => {
    for (const thing of [image, home]) {
      const { child, said } = await startHolder(thing, true, 'another namespace');
      expect(said).toBe('held');
      expect(await lockHolder(posixFiles, systemClock, thing)).toBeNull();
      await expect(lock(thing)).rejects.toMatchObject({
        code: 'locked',
        message: `${thing} is in use by a process in another network namespace or host container`,
      });
      const gone = once(child, 'exit');
      child.kill('SIGKILL');
      await gone;
      const mine = await lock(thing);
      expect((await startHolder(thing, false, 'another namespace')).said).toContain('locked');
      await mine.release();
      expect((await startHolder(thing, false, 'another namespace')).said).toBe('held');
    }
  },
);

it('says what its holder says, as of when it is asked for', async () => {
  let room = 3;
  const held = await acquireLock(posixFiles, systemClock, image, me, () => ({ room }));
  expect(await lockHolder(posixFiles, systemClock, image)).toEqual({ ...me, says: { room: 3 } });
  room = 0;
  expect(await lockHolder(posixFiles, systemClock, image)).toEqual({ ...me, says: { room: 0 } });
  await held.release();
});
