/**
 * A protected machine with everything around it, as real processes on small disks, and the oracle of its points.
 *
 * Each run of the agent is a **life**: the image as the agent found it, the writes it accepted since, counted from its start as its
 * cuts count them (`writes` of a point). A point is compared with its life's image plus that many writes of the log; to which life it
 * belongs its cut time says.
 *
 * Whatever a test does, `open` has its processes ended and its directory removed when the test is over.
 */
import { copyFile, mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { commandOk, type CommandRunner } from '../../scripts/demo/process.ts';
import { Site, type SiteOptions } from '../../scripts/demo/site.ts';
import { replay, Writer, type WriterPlan } from '../../scripts/demo/writer.ts';
import type { PointReport, VerifyReport } from '../../src/cli/roles.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { command } from './command.ts';
import { PointReader } from './point-reader.ts';

export const machine = 'web1';
export const disk = 'vda';

interface Life {
  /** Wall clock before the agent was started, and after it had ended. */
  readonly fromMs: number;
  toMs: number;
  /** The image as the agent found it. */
  readonly base: string;
  readonly writer: Writer;
  client: NbdClient | null;
}

export interface SceneOptions {
  /** Makes the disk image at the path given. */
  readonly image: (path: string) => Promise<void>;
  /** Names of disks beside `vda`, of images made in the same way; the writer leaves them alone. */
  readonly moreDisks?: readonly string[];
  readonly writer: Omit<WriterPlan, 'size'>;
  readonly site?: Partial<Pick<SiteOptions, 'compression' | 'reporting' | 'intervalSeconds' | 'run' | 'places'>>;
}

function imageOf(directory: string, name: string): string {
  return path.join(directory, name === disk ? 'disk.raw' : `${name}.raw`);
}

export class Scene {
  readonly directory: string;
  readonly site: Site;
  readonly lives: Life[] = [];
  readonly #plan: Omit<WriterPlan, 'size'>;

  private constructor(directory: string, options: SceneOptions) {
    this.directory = directory;
    this.#plan = options.writer;
    this.site = new Site({
      directory,
      machine,
      disks: [disk, ...(options.moreDisks ?? [])].map((name) => ({ name, image: imageOf(directory, name) })),
      intervalSeconds: 1,
      compression: 'lz4',
      run: command,
      ...options.site,
    });
  }

  /** Makes image and credentials; starts control only. The caller hands `close` to the test's end. */
  static async open(options: SceneOptions): Promise<Scene> {
    const scene = new Scene(await mkdtemp(path.join(tmpdir(), 'tidemark-product-')), options);
    try {
      for (const name of [disk, ...(options.moreDisks ?? [])]) await options.image(imageOf(scene.directory, name));
      await scene.site.enrollAll();
      return scene;
    } catch (error) {
      await scene.close();
      throw error;
    }
  }

  get image(): string {
    return imageOf(this.directory, disk);
  }

  file(name: string): string {
    return path.join(this.directory, name);
  }

  /** Ends every process and removes every file. */
  async close(): Promise<void> {
    for (const life of this.lives) life.client?.destroy();
    await this.site.stop();

    await rm(this.directory, { recursive: true, force: true });
  }

  /** What the roles logged last, for the message of a failure. */
  async logs(): Promise<string> {
    const names = (await readdir(this.directory)).filter((name) => name.endsWith('.log'));
    const texts = await Promise.all(
      names.map(async (name) => {
        const text = await readFile(this.file(name), 'utf8');
        return `--- ${name}\n${text.split('\n').slice(-8).join('\n')}`;
      }),
    );
    return texts.join('\n');
  }

  /** Starts the agent and the writer behind it: a new life. */
  async startLife(settings: Readonly<Record<string, string | number>> = {}): Promise<Life> {
    const last = this.lives.at(-1);
    const base = this.file(`base-${this.lives.length}.raw`);
    await copyFile(this.image, base);
    const writer = new Writer(last?.writer.nextNumber ?? 0);
    const life: Life = { fromMs: Date.now(), toMs: Number.POSITIVE_INFINITY, base, writer, client: null };
    this.lives.push(life);
    await this.site.startAgent(settings);
    const client = await connectNbd({ unixPath: this.site.socketOf(disk) }, { exportName: disk, clock: systemClock });
    life.client = client;
    writer.start(client, { ...this.#plan, size: client.size });
    return life;
  }

  life(): Life {
    const life = this.lives.at(-1);
    if (!life) throw new Error('the agent was not started yet');
    return life;
  }

  /** Ends the writer, then the agent in order. */
  async endLife(): Promise<void> {
    const life = this.life();
    await life.writer.stop();
    await life.client?.close();
    await this.site.role('agent').stop();
    life.toMs = Date.now();
  }

  /** SIGKILL to the agent under a writing writer. */
  async killLife(): Promise<void> {
    const life = this.life();
    await this.site.kill('agent');
    life.toMs = Date.now();
    await life.writer.stop().catch(() => undefined);
    life.client?.destroy();
  }

  /** Has the agent make a point now. */
  pointNow(): void {
    process.kill(this.site.role('agent').pid, 'SIGUSR2');
  }

  /** Ends the writer and waits for the point that holds all it wrote; that point must be the image, byte by byte. */
  async settle(ms?: number): Promise<PointReport> {
    const { writer } = this.life();
    await writer.stop();
    this.pointNow();
    const wanted = (point: PointReport | undefined): point is PointReport =>
      point !== undefined && this.#belongs(point) && writesOf(point) === writer.log.length;
    const points = await this.untilPoints('a point with every write', (listed) => wanted(listed.at(-1)), ms);
    const newest = points.at(-1);
    if (!newest) throw new Error('there is no point');
    const fault = await this.#exportFault(newest, await readFile(this.image));
    if (fault !== null) throw new Error(`${fault}, though it holds every write`);
    return newest;
  }

  /** Points of this machine that `verify` found whole; throws with what it said when one is not. */
  async verified(): Promise<number> {
    const words = ['verify', machine, '--data', this.site.targetData, '--point', 'all', '--json'];
    const { ok, points } = JSON.parse(await commandOk(command, words)) as VerifyReport;
    if (!ok) throw new Error(`verify: ${JSON.stringify(points.filter((point) => !point.ok))}`);
    return points.length;
  }

  /** All points, oldest first, from the target's directory. */
  async points(): Promise<readonly PointReport[]> {
    return listPoints(command, this.site.targetData);
  }

  /** Waits until `wanted` says yes to the points listed. */
  async untilPoints(
    what: string,
    wanted: (points: readonly PointReport[]) => boolean,
    ms = 40_000,
  ): Promise<readonly PointReport[]> {
    return this.until(
      what,
      async () => {
        const points = await this.points();
        return wanted(points) ? points : undefined;
      },
      ms,
    );
  }

  /** Asks again and again; a role that ended on its own ends the waiting. */
  async until<T>(what: string, ask: () => Promise<T | undefined>, ms = 40_000): Promise<T> {
    const end = performance.now() + ms;
    for (;;) {
      const answer = await ask().catch((error: unknown) => {
        if (performance.now() > end) throw error;
        return undefined;
      });
      if (answer !== undefined) return answer;
      if (performance.now() > end) throw new Error(`${what} did not happen within ${ms} ms\n${await this.logs()}`);
      await systemClock.sleep(50);
    }
  }

  /** The disk as of each point, in the order given; a point's buffer is valid until the next one is asked for. */
  async *oracles(points: readonly PointReport[]): AsyncGenerator<{ point: PointReport; content: Buffer }> {
    let life: Life | undefined;
    let content = Buffer.alloc(0);
    let done = 0;
    for (const point of points) {
      const writes = writesOf(point);
      if (life !== this.lifeOf(point) || done > writes) {
        life = this.lifeOf(point);
        content = await readFile(life.base);
        done = 0;
      }
      const into = content;
      await replay(life.writer.log, done, writes, (data, offset) => data.copy(into, offset));
      done = writes;
      yield { point, content };
    }
  }

  lifeOf(point: PointReport): Life {
    const life = this.lives.find(({ fromMs, toMs }) => fromMs <= point.cutTimeMs && point.cutTimeMs <= toMs);
    if (!life) throw new Error(`point ${point.point} was cut while no agent ran`);
    return life;
  }

  /** The image holds every write that was answered; those that were not may be there, in part, or not. */
  async imageFault(): Promise<string | null> {
    const { base, writer } = this.life();
    const content = await readFile(base);
    await replay(writer.log, 0, writer.log.length, (data, offset) => data.copy(content, offset));
    const image = await readFile(this.image);
    for (const { offset, length } of writer.unanswered) {
      content.fill(0, offset, offset + length);
      image.fill(0, offset, offset + length);
    }
    return image.equals(content) ? null : `the image lost an answered write at byte ${differenceAt(image, content)}`;
  }

  /**
   * Compares each point with its oracle. Returns what is wrong, for all of them. Exported by `run`; without, the last one is exported and the others are
   * read (`point-reader.ts`), and exported only when that goes wrong, because `export` may know another way.
   */
  async faults(points: readonly PointReport[], run?: CommandRunner): Promise<string[]> {
    const faults: string[] = [];
    const reader = await PointReader.open(this.site.targetData, machine, this.file('faults-index'));
    try {
      for await (const { point, content } of this.oracles(points)) {
        const exported = run !== undefined || point === points.at(-1);
        if (!exported && (await reader.read(disk, point.point).catch(() => null))?.equals(content) === true) continue;
        const fault = await this.#exportFault(point, content, run);
        if (fault !== null) faults.push(fault);
      }
    } finally {
      await reader.close();
    }
    return faults;
  }

  async #exportFault({ point }: PointReport, content: Buffer, run: CommandRunner = command): Promise<string | null> {
    const to = this.file('exported.raw');
    const words = ['export', machine, disk, '--data', this.site.targetData, '--point', String(point)];
    const result = await run([...words, '--to', to, '--yes', '--json']);
    if (result.code !== 0) return `point ${point}: export ended with ${result.code}: ${result.stderr.trim()}`;
    const exported = await readFile(to);
    await rm(to);
    return exported.equals(content) ? null : `point ${point} differs from byte ${differenceAt(exported, content)} on`;
  }

  #belongs(point: PointReport): boolean {
    return this.lifeOf(point) === this.life();
  }
}

/** Bytes of the first difference, for messages. */
export function differenceAt(a: Buffer, b: Buffer): number {
  const end = Math.min(a.length, b.length);
  for (let at = 0; at < end; at += 1) if (a[at] !== b[at]) return at;
  return end;
}

/** What of a point never changes; its proof may come later. */
export function identityOf({ point, cutTimeMs, disks }: PointReport): unknown {
  return { point, cutTimeMs, disks };
}

export function writesOf(point: PointReport): number {
  const writes = point.disks[0]?.writes;
  if (writes === null || writes === undefined) throw new Error(`point ${point.point} does not note its writes`);
  return writes;
}

/** Empty while there is no machine in that directory yet. */
export async function listPoints(run: CommandRunner, data: string): Promise<readonly PointReport[]> {
  const listed = await run(['points', '--data', data, '--json']);
  if (listed.code !== 0) throw new Error(`points ended with ${listed.code}: ${listed.stderr}`);
  return (JSON.parse(listed.stdout) as { points: PointReport[] }).points;
}
