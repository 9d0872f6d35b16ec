/**
 * The command is killed before each of its steps that change something (its process that serves, if there is one by then, lives on); then the
 * operator, or a target that starts, goes on or undoes.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FailoverReport } from '../../src/cli/failover-roles.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { keepFailovers, watchFailovers } from '../../src/main/failover-keeper.ts';
import { cancelFailover, cleanUpFailovers, commitFailover, unplannedFailover } from '../../src/main/failover.ts';
import type { Parts } from '../../src/main/parts.ts';
import { posixFiles, type File, type Files } from '../../src/posix/files.ts';
import { machineWords } from '../../src/recovery/qemu.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { soak } from '../crash/crash-points.ts';
import { requireTool, runTool } from '../tools.ts';
import { plain } from './definitions.ts';
import { contentOf, FailoverScene, killServing, machine, uriOf, withDisk } from './failover-scene.ts';

const logger = createLogger({ level: 'silent', clock });

/** Files of a process that is killed before its n-th operation that changes something. */
class MortalFiles {
  done = 0;
  readonly #n: number;
  constructor(n: number) {
    this.#n = n;
  }

  get isDead(): boolean {
    return this.done >= this.#n;
  }

  readonly files: Files = {
    ...posixFiles,
    open: async (path, mode, permissions) => {
      if (mode === 'read') this.#refuse();
      else this.#step();
      return this.#mortal(await posixFiles.open(path, mode, permissions));
    },
    readWhole: (path) => this.#whileAlive(() => posixFiles.readWhole(path)),
    facts: (path) => this.#whileAlive(() => posixFiles.facts(path)),
    list: (path) => this.#whileAlive(() => posixFiles.list(path)),
    replaceFile: (path, bytes, permissions) => this.#stepping(() => posixFiles.replaceFile(path, bytes, permissions)),
    makeDirectory: (path) => this.#stepping(() => posixFiles.makeDirectory(path)),
    remove: (path) => this.#stepping(() => posixFiles.remove(path)),
    removeTree: (path) => this.#stepping(() => posixFiles.removeTree(path)),
    rename: (from, to) => this.#stepping(() => posixFiles.rename(from, to)),
  };

  #mortal(file: File): File {
    return {
      ...{ path: file.path, facts: () => file.facts(), close: () => file.close() },
      read: (into, at) => file.read(into, at),
      readSync: (into, at) => file.readSync(into, at),
      readCachedSync: (into, at) => file.readCachedSync(into, at),
      extentSync: (at, length) => file.extentSync(at, length),
      dropCacheSync: (at, length) => file.dropCacheSync(at, length),
      allocateSync: (at, length, keep) => file.allocateSync(at, length, keep),
      punchHoleSync: (at, length) => file.punchHoleSync(at, length),
      writeSync: (part, at) => file.writeSync(part, at),
      truncate: (size) => file.truncate(size),
      write: (parts, at) => this.#stepping(() => file.write(parts, at)),
      datasync: () => this.#stepping(() => file.datasync()),
    };
  }

  #refuse(): void {
    if (this.isDead) throw new Error('killed');
  }

  #step(): void {
    this.#refuse();
    this.done += 1;
    this.#refuse();
  }

  async #stepping<T>(run: () => Promise<T>): Promise<T> {
    this.#step();
    return run();
  }

  async #whileAlive<T>(run: () => Promise<T>): Promise<T> {
    this.#refuse();
    return run();
  }
}

function partsWith(files: Files): Parts {
  return { files, clock, random, version: 'test', loggerOf: () => logger };
}

let scene: FailoverScene;
beforeEach(async () => {
  scene = await FailoverScene.make();
});
afterEach(() => scene.end());

const place = () => ({ data: scene.data, vault: scene.vault, machine });
const asked = () => ({ ...place(), point: undefined, listen: 'unix' as const, spaceBytes: undefined });

/** As a target that starts. */
function targetStarts(): Promise<void> {
  return keepFailovers(partsWith(posixFiles), place(), logger, new AbortController().signal);
}

/** Kills `work` before each of its operations in turn, and calls `judge` after; until there are no more. @returns how many there were. */
async function killAtEach(
  work: (parts: Parts) => Promise<unknown>,
  judge: (n: number) => Promise<void>,
  every = 1,
): Promise<number> {
  for (let n = 1; ; n += every) {
    const mortal = new MortalFiles(n);
    const outcome = await work(partsWith(mortal.files)).then(
      () => 'done',
      (error: unknown) => String(error),
    );
    if (!mortal.isDead) {
      expect(outcome).toBe('done');
      return mortal.done;
    }
    await judge(n).catch((error: unknown) => {
      throw new Error(`killed before operation ${n} (${outcome}): ${String(error)}`, { cause: error });
    });
  }
}

async function only(): Promise<FailoverReport> {
  const all = await scene.list();
  expect(all).toHaveLength(1);
  return all[0] ?? expect.fail();
}

describe('killed at each step', () => {
  it('an unplanned failover goes on when it is asked for again, or is undone', { timeout: 240_000 }, async () => {
    const steps = await killAtEach(
      (parts) => unplannedFailover(parts, asked()),
      async (n) => {
        if (n % 3 === 0) {
          const again = await scene.ok('failover', 'unplanned', machine, '--yes');
          expect(again).toMatchObject({ kind: 'unplanned', state: 'running', served: true, point: 3 });
          expect(await scene.list()).toEqual([again]);
          expect((await contentOf(again)).equals(scene.image(3))).toBe(true);
        }
        if (n % 3 === 1) {
          await targetStarts();
          // Either it never happened, or it is there and served.
          for (const each of await scene.list()) expect(each).toMatchObject({ state: 'running', served: true });
        }
        const cancelled = await scene.run('failover', 'cancel', machine, '--yes');
        expect(cancelled.stderr).toMatch(/^$|is not failed over/);
        expect(await scene.failovers()).toEqual([]);
      },
      soak ? 1 : 3,
    );
    expect(steps).toBeGreaterThan(12);
  });

  it('cancel leaves the failover or ends it', { timeout: 240_000 }, async () => {
    let generation = 0;
    const steps = await killAtEach(
      async (parts) => {
        await unplannedFailover(partsWith(posixFiles), asked());
        await cancelFailover(parts, place());
      },
      async (n) => {
        if (n % 2 === 0) await targetStarts();
        for (const each of await scene.list()) if (each.served) expect(each.state).toBe('running');
        await scene.run('failover', 'cancel', machine, '--yes');
        expect(await scene.failovers()).toEqual([]);
        const next = await scene.ok('failover', 'unplanned', machine, '--yes');
        expect(next.generation).toBeGreaterThan(generation);
        generation = next.generation;
      },
      soak ? 1 : 3,
    );
    expect(steps).toBeGreaterThan(5);
  });

  it('commit loses nothing of what was written', { timeout: 240_000 }, async () => {
    const first = await scene.ok('failover', 'unplanned', machine, '--yes');
    await withDisk(first, async (client) => {
      await client.write(Buffer.alloc(4096, 0x77), 4096);
      await client.flush();
    });
    const steps = await killAtEach(
      (parts) => commitFailover(parts, place()),
      async () => {
        await killServing(await only());
        await targetStarts();
        const { served, state } = await only();
        expect(served).toBe(true);
        // What points.log says counts.
        expect(['running', 'committed']).toContain(state);
        expect((await contentOf(await only())).subarray(4096, 8192).equals(Buffer.alloc(4096, 0x77))).toBe(true);
      },
      soak ? 1 : 3,
    );
    expect(steps).toBeGreaterThan(0);
    expect(await only()).toMatchObject({ state: 'committed', served: true });
    expect((await scene.run('failover', 'cancel', machine, '--yes')).stderr).toContain('was committed');
  });

  it('clean-up is finished by the next one, or by a target that starts', { timeout: 240_000 }, async () => {
    const steps = await killAtEach(
      async (parts) => {
        if ((await scene.failovers()).length === 0) await scene.ok('failover', 'test', machine);
        await cleanUpFailovers(parts, { ...place(), which: 'all' });
      },
      async (n) => {
        if (n % 2 === 0) await targetStarts();
        else await scene.ok('failover', 'cleanup', machine, '--all');
        for (const each of await scene.list()) expect(each.served, 'a test that was not touched goes on').toBe(true);
      },
      // Odd and even in turn.
      soak ? 1 : 3,
    );
    expect(steps).toBeGreaterThan(5);
    expect(await scene.failovers()).toEqual([]);
  });
});

describe('what a killed command left', () => {
  it('is removed by the next one: a directory without failover.json, and one that was being removed', async () => {
    const test = await scene.ok('failover', 'test', machine);
    const nothing = path.join(path.dirname(test.directory), 'test-7');
    await mkdir(nothing);
    await killServing(test);
    const file = path.join(test.directory, 'failover.json');
    const facts = JSON.parse(await readFile(file, 'utf8')) as object;
    await writeFile(file, JSON.stringify({ ...facts, state: 'ending' }));
    const next = await scene.ok('failover', 'test', machine);
    expect(await scene.failovers()).toEqual([next.id]);
    // A file that can not be understood is left to the operator, and stands in nobody's way.
    await writeFile(path.join(next.directory, 'failover.json'), '{');
    expect(await scene.ok('failover', 'cleanup', machine, next.id)).toEqual({ removed: [next.id] });
  });
});

describe('a target that starts', () => {
  it('ends tests whose process is gone, keeps those that are served, and serves unplanned failovers again', async () => {
    const gone = await scene.ok('failover', 'test', machine, '--point', '1');
    const stays = await scene.ok('failover', 'test', machine, '--point', '2');
    const unplanned = await scene.ok('failover', 'unplanned', machine, '--yes');
    await withDisk(unplanned, async (client) => {
      await client.write(Buffer.alloc(4096, 0x77), 4096);
      await client.flush();
    });
    await killServing(gone);
    await killServing(unplanned);
    await targetStarts();
    expect(await scene.list()).toEqual([stays, unplanned]);
    expect((await contentOf(unplanned)).subarray(4096, 8192).equals(Buffer.alloc(4096, 0x77))).toBe(true);
    expect((await contentOf(stays)).equals(scene.image(2))).toBe(true);
  });
});

describe('a target that runs', () => {
  it('serves an unplanned failover again whose process died, and leaves tests alone', async () => {
    const stopping = new AbortController();
    const watched = watchFailovers(partsWith(posixFiles), place(), logger, stopping.signal);
    const test = await scene.ok('failover', 'test', machine);
    const unplanned = await scene.ok('failover', 'unplanned', machine, '--yes');
    await withDisk(unplanned, (client) => client.write(Buffer.alloc(4096, 0x77), 4096, { fua: true }));
    await killServing(test);
    await killServing(unplanned);
    await expect
      .poll(async () => (await scene.list()).map(({ served }) => served), { timeout: 20_000 })
      .toEqual([false, true]);
    expect((await contentOf(unplanned)).subarray(4096, 8192).equals(Buffer.alloc(4096, 0x77))).toBe(true);
    stopping.abort();
    await watched;
    await scene.ok('failover', 'cancel', machine, '--yes');
    expect(await scene.failovers()).toEqual([test.id]);
  });
});

describe.skipIf(!requireTool('qemu-io'))('a machine that runs on it', () => {
  it('waits for its disk while the process that serves it dies and comes again', async () => {
    const unplanned = await scene.ok('failover', 'unplanned', machine, '--yes');
    const words = machineWords({ title: 'm', definition: plain, disks: [{ name: 'root', uri: uriOf(unplanned) }] });
    const disk = words[words.indexOf('-blockdev') + 1] ?? expect.fail();
    const steps = ['write -P 0x77 -f 4k 4k', 'sleep 3000', 'read -P 0x77 4k 4k', 'write -P 0x78 8k 4k'];
    const guest = runTool('qemu-io', [...steps.flatMap((each) => ['-c', each]), `json:${disk}`]);
    await expect.poll(async () => (await contentOf(unplanned))[4096], { timeout: 10_000 }).toBe(0x77);
    await killServing(unplanned);
    await clock.sleep(2_000);
    await targetStarts();
    const { code, stdout, stderr } = await guest;
    expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' });
    expect(stdout).not.toContain('failed');
    expect((await contentOf(unplanned))[8192]).toBe(0x78);
  });
});
