/**
 * A machine protected with what it is, and started elsewhere as a machine is: by its firmware and boot loader, from what is on its disk.
 * Steps follow one another on one site:
 *  - tests from two of its points while a writer goes on with the protected disk: each start prints the marker that was on the disk then, its
 *    point says that it is bootable, and replication does not wait;
 *  - an unplanned failover, started by the line that is printed: what the machine writes there outlives the target, the process that serves it
 *    and the machine itself, and its old source is refused.
 */
import { mkdir, readFile, readdir, truncate } from 'node:fs/promises';
import * as path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { BootedReport, FailoverReport } from '../../src/cli/failover-roles.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { exitCodes } from '../../src/fatal.ts';
import { bootableBytes, makeBootable, requireBootable } from '../guest/bootable.ts';
import { RunningGuest } from '../guest/running.ts';
import { killServing } from '../recovery/failover-scene.ts';
import { runToolOk } from '../tools.ts';
import { command } from './command.ts';
import { MiB } from './content.ts';
import { disk, machine, Scene } from './scene.ts';

/** Rounds of target, serving process and machine gone. */
const rounds = process.env['TIDEMARK_TEST_SOAK'] === '1' ? 10 : 1;
const stepMs = 120_000;

/**
 * How far the newest point may be behind the disk, at an interval of one second: two emulated machines start beside, on the same processors.
 * A replication that waited for a test would be behind by as long as that runs.
 */
const lagMsMax = 6_000;

async function bootable(file: string, marker: string): Promise<void> {
  const scratch = `${file}.${marker}`;
  await mkdir(scratch);
  await makeBootable(file, marker, scratch, { journal: true });
}

let scene: Scene;
let first: PointReport;
let second: PointReport;

async function failover(...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return await command(['failover', ...words, '--data', scene.site.targetData, '--json']);
}

async function failoverOk<T = FailoverReport>(...words: string[]): Promise<T> {
  const { code, stdout, stderr } = await failover(...words);
  expect(code, stderr).toBe(exitCodes.ok.code);
  return JSON.parse(stdout) as T;
}

const all = async (): Promise<readonly FailoverReport[]> =>
  (await failoverOk<{ failovers: FailoverReport[] }>('list', machine)).failovers;

/** The site's first point, and one with another marker on the disk. The writer keeps to what lies above all file systems. */
async function makeSite(): Promise<void> {
  scene = await Scene.open({
    image: async (file) => {
      await bootable(file, 'first');
      await truncate(file, bootableBytes + 8 * MiB);
    },
    writer: { from: bootableBytes, pauseMs: 10, sectorsMax: 32 },
    site: { reporting: true },
  });
  const { site } = scene;
  const what = ['--cpus', '1', '--memory', '192M', '--machine-type', 'q35', '--nic', 'virtio,network=lan'];
  expect((await command(['protect', machine, '--disk', disk, ...what, ...site.operator])).code).toBe(0);
  await site.startTarget();
  await site.startProcessServer();
  await scene.startLife();
  const before = await scene.untilPoints('a point', (points) => points.length > 0);
  const other = scene.file('second.raw');
  await bootable(other, 'second');
  await runToolOk('nbdcopy', [other, `nbd+unix:///${disk}?socket=${site.socketOf(disk)}`]);
  const writtenMs = Date.now();
  scene.pointNow();
  const points = await scene.untilPoints('a point of what was written', (listed) =>
    listed.some(({ cutTimeMs }) => cutTimeMs > writtenMs),
  );
  [first, second] = [before[0], points.find(({ cutTimeMs }) => cutTimeMs > writtenMs)].map(
    (point) => point ?? expect.fail('there are two points'),
  ) as [PointReport, PointReport];
}

/** Milliseconds: how far the newest point was behind at most, from the point given on until now. */
async function longestLagSince(from: number): Promise<number> {
  const points = (await scene.points()).filter(({ point }) => point >= from);
  const ends = [...points.slice(1).map(({ committedMs }) => committedMs), Date.now()];
  return Math.max(...points.map(({ cutTimeMs }, index) => (ends[index] ?? Infinity) - cutTimeMs));
}

/** The machine by the line a failover prints, without window and acceleration; what it says of its journal. */
class JournalGuest {
  marker = '';
  /** Lines it found; null: it did not look yet. */
  found: number | null = null;
  wrote = 0;
  readonly trouble: string[] = [];
  readonly running: RunningGuest;

  constructor({ qemu }: FailoverReport) {
    const line = (qemu ?? expect.fail('no line that starts the machine')).replace('-accel kvm ', '');
    const complain = (text: string): void => void this.trouble.push(text);
    this.running = new RunningGuest('sh', ['-c', `exec ${line} -display none`], (told) => this.#hear(told), complain);
    onTestFinished(() => this.running.stop());
  }

  /** Waits until it wrote `count` lines more than it has. */
  async writesMore(count: number): Promise<void> {
    const wanted = (this.wrote || (this.found ?? 0)) + count;
    await scene.until(
      `line ${wanted}`,
      () => Promise.resolve(this.wrote >= wanted || this.trouble.length > 0 || undefined),
      stepMs,
    );
    expect(this.trouble).toEqual([]);
  }

  #hear(line: string): void {
    const [, word, number] = /^journal: (found|wrote) (\d+)$/.exec(line) ?? [];
    if (word === 'found') this.found = Number(number);
    if (word === 'wrote') this.wrote = Number(number);
    this.marker = /^marker: (.*)$/.exec(line)?.[1] ?? this.marker;
    if (/trouble|error|EXT4-fs (?:warning|error)|panic/i.test(line)) this.trouble.push(line);
  }
}

describe.skipIf(!requireBootable('nbdcopy'))('a machine', () => {
  beforeAll(makeSite, stepMs);
  afterAll(async () => {
    await failover('cleanup', machine, '--all');
    await failover('cancel', machine, '--yes');
    await scene.close();
  }, stepMs);

  it('starts from each of two points, which say so, while its points keep coming', { timeout: stepMs }, async () => {
    const { writer } = scene.life();
    const [from, written] = [(await scene.points()).length, writer.log.length];
    for (const [marker, { point }] of [
      ['first', first],
      ['second', second],
    ] as const) {
      const words = ['--point', String(point), '--boot', '--probe', `serial:marker: ${marker}`];
      const run = await failover('test', machine, ...words);
      expect(run.code, run.stderr).toBe(exitCodes.ok.code);
      const report = JSON.parse(run.stdout) as BootedReport;
      expect(report).toMatchObject({ point, served: true, boot: { answered: true, detail: `marker: ${marker}` } });
      expect((await readdir(path.join(report.directory, '../../boots', String(point), report.id))).sort()).toEqual([
        'console.log',
        'proof.json',
        'screen.png',
      ]);
      expect(await readFile(report.domainXml ?? '', 'utf8')).toContain('<link state="down"/>');
      expect(run.stderr).toContain(`point ${point} is bootable: marker: ${marker} after`);
      process.stderr.write(`boot: point ${point} answered ${report.boot.seconds} s after the command began\n`);
    }
    const lagMs = await longestLagSince(from);
    process.stderr.write(`boot: ${writer.log.length - written} writes beside, ${lagMs} ms behind at most\n`);
    expect(lagMs).toBeLessThan(lagMsMax);
    expect(writer.longestGapMs).toBeLessThan(lagMsMax);
    expect(writer.log.length).toBeGreaterThan(written + 100);
    const booted = (await scene.points()).filter((each) => each.booted !== null);
    expect(booted.map(({ point, booted: proof }) => [point, proof?.detail])).toEqual([
      [first.point, 'marker: first'],
      [second.point, 'marker: second'],
    ]);
    const started = await scene.until('status that says so', async () => {
      const run = await command(['status', ...scene.site.operator, '--json']);
      const { machines } = JSON.parse(run.stdout) as StatusReport;
      // The one before may have been reported in between.
      return machines.map((each) => each.booted).find((each) => each?.point === second.point) ?? undefined;
    });
    expect(started.seconds).toBe(booted[1]?.booted?.seconds);
    expect(await scene.site.metric('target', 'tidemark_newest_started_point_seconds')).toBe(booted[1]?.booted?.seconds);
  });

  it('that does not answer did not start, and every test is removed', { timeout: stepMs }, async () => {
    const silent = await failover('test', machine, '--boot', '--probe', 'serial:never', '--boot-timeout', '1');
    expect(silent.code).toBe(exitCodes['check-failed'].code);
    // The test is there, and who ran the command learns where.
    expect(JSON.parse(silent.stdout)).toMatchObject({ id: 'test-3', served: true });
    expect(silent.stderr).toContain(
      'the machine did not start: the probe was not answered within 1 s; its console said',
    );
    expect(await failoverOk('cleanup', machine, '--all')).toEqual({ removed: ['test-1', 'test-2', 'test-3'] });
    // What was seen and heard stays with the point.
    const booted = (await scene.points()).flatMap((each) => each.booted ?? []);
    for (const { evidence } of booted) expect(await readdir(evidence)).toContain('proof.json');
    expect(booted).toHaveLength(2);
  });

  it(
    'that runs from its replica keeps what it wrote, whatever is killed; its source is refused',
    { timeout: stepMs * rounds },
    async () => {
      const { site } = scene;
      let begun = await failoverOk('unplanned', machine, '--point', String(second.point), '--yes');
      expect(begun).toMatchObject({ kind: 'unplanned', state: 'running', generation: 1, point: second.point });
      const points = (await scene.points()).length;
      let durable = 0;
      for (let round = 0; round <= rounds; round += 1) {
        const guest = new JournalGuest(begun);
        await guest.writesMore(3);
        expect(guest).toMatchObject({ marker: 'second' });
        // One line may have become durable after the last that was told.
        expect([durable, durable + 1]).toContain(guest.found);
        await site.kill('target');
        await guest.writesMore(3);
        await site.startTarget();
        await guest.writesMore(3);
        await guest.running.stop();
        durable = guest.wrote;
        await site.kill('target');
        await killServing(begun);
        await site.startTarget();
        begun = await scene.until('the failover to be served again', async () =>
          (await all()).find(({ served }) => served),
        );
      }
      process.stderr.write(`boot: ${durable} lines written by ${rounds + 1} starts, all found\n`);
      await scene.until('the refusal in the log of the agent', async () => {
        const text = await readFile(scene.file('agent.log'), 'utf8');
        return text.includes(`failover ${begun.id} (begun`) && text.includes('generation 1') ? true : undefined;
      });
      expect((await scene.points()).length).toBe(points);
    },
  );
});
