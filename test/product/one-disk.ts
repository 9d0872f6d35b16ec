/**
 * A machine of one disk on a site of its own, with control, target and process server: before each test of a file and gone after it (`forEach`), or of
 * one test among others that run beside it (`forThis`). For tests that look at points and status; who writes all the time and wants every
 * point held against what was written takes `scene.ts`.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, type TestContext } from 'vitest';
import { commandOk, type CommandResult } from '../../scripts/demo/process.ts';
import { Site, type SiteOptions } from '../../scripts/demo/site.ts';
import type { PointReport } from '../../src/cli/roles.ts';
import type { StatusReport } from '../../src/cli/status-report.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { command } from './command.ts';
import { writeImage } from './content.ts';
import { disk, listPoints, machine } from './scene.ts';

export interface OneDiskOptions {
  readonly size: number;
  /** Bytes of it that are not zeros; default: all. */
  readonly filled?: number;
  readonly seed: number;
  /** How a test captures it that says so itself, by `open`; default: by a splitter, opened before each test. */
  readonly opensItself?: boolean;
}

export class OneDisk {
  directory = '';
  readonly #options: OneDiskOptions;
  #site: Site | null = null;
  #exports = 0;

  private constructor(options: OneDiskOptions) {
    this.#options = options;
  }

  static forEach(options: OneDiskOptions): OneDisk {
    const one = new OneDisk(options);
    beforeEach(() => one.#begin());
    afterEach(() => one.#end());
    return one;
  }

  static async forThis(
    { onTestFinished }: Pick<TestContext, 'onTestFinished'>,
    options: OneDiskOptions,
  ): Promise<OneDisk> {
    const one = new OneDisk(options);
    onTestFinished(() => one.#end());
    await one.#begin();
    return one;
  }

  async #begin(): Promise<void> {
    this.directory = await mkdtemp(path.join(tmpdir(), 'tidemark-one-disk-'));
    const { size, filled = size, seed, opensItself } = this.#options;
    await writeImage(this.image, size, filled, seed);
    if (opensItself !== true) await this.open();
  }

  async #end(): Promise<void> {
    await this.#site?.stop();
    this.#site = null;
    await rm(this.directory, { recursive: true, force: true });
  }

  get image(): string {
    return this.file('disk.raw');
  }

  get size(): number {
    return this.#options.size;
  }

  get site(): Site {
    if (!this.#site) throw new Error('the site is open');
    return this.#site;
  }

  file(name: string): string {
    return path.join(this.directory, name);
  }

  /** Everything but the agent. */
  async open(how: Pick<SiteOptions['disks'][number], 'scan'> = {}): Promise<void> {
    const { directory, image } = this;
    const disks = [{ name: disk, image, ...how }];
    const options = { directory, machine, disks, intervalSeconds: 1, compression: 'lz4', reporting: true } as const;
    const site = new Site({ ...options, run: command });
    this.#site = site;
    await site.enrollAll();
    await site.startTarget();
    await site.startProcessServer();
  }

  /** A command of the operator's. */
  operate(...words: string[]): Promise<CommandResult> {
    return command([...words, ...this.site.operator]);
  }

  async protect(...words: string[]): Promise<void> {
    await commandOk(command, ['protect', machine, '--disk', disk, ...words, ...this.site.operator]);
  }

  /** Of the machine; undefined: control has not heard of it. */
  async status(): Promise<StatusReport['machines'][number] | undefined> {
    return (JSON.parse((await this.operate('status', '--json')).stdout) as StatusReport).machines[0];
  }

  /** Of the agent, without its prefix; 0: it has none. */
  async metric(name: string): Promise<number> {
    return (await this.site.metric('agent', `tidemark_${name}`)) ?? 0;
  }

  points(): Promise<readonly PointReport[]> {
    return listPoints(command, this.site.targetData);
  }

  async newest(): Promise<number> {
    return (await this.points()).at(-1)?.point ?? 0;
  }

  /** The first point after `after` that is as wanted. */
  untilPoint(what: string, after = 0, wanted: (point: PointReport) => boolean = () => true): Promise<PointReport> {
    return this.until(what, async () => (await this.points()).find((each) => each.point > after && wanted(each)));
  }

  /** Asks until it is answered. */
  async until<T>(what: string, ask: () => Promise<T | undefined | false>, withinMs = 40_000): Promise<T> {
    const deadlineMs = systemClock.monotonicMs() + withinMs;
    for (;;) {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
      if (systemClock.monotonicMs() > deadlineMs) {
        const status = JSON.stringify(await this.status());
        throw new Error(`${what} did not happen in time; the status is ${status}`);
      }
      await systemClock.sleep(100);
    }
  }

  /** What the point holds. */
  async exported(point: number): Promise<Buffer> {
    this.#exports += 1;
    const to = this.file(`export-${this.#exports}.raw`);
    const words = ['export', machine, disk, '--data', this.site.targetData, '--point', String(point), '--to', to];
    await commandOk(command, words);
    return readFile(to);
  }

  /** Every point there is, from stored bytes. */
  verified(): Promise<CommandResult> {
    return command(['verify', '--data', this.site.targetData, '--point', 'all', '--json']);
  }
}
