/**
 * The whole data path in one process: capture, agent, process server, target and store as they are, joined by wires in memory. Each role
 * can be ended in order, or killed (its files are shut, its wires cut, what it remembers is gone), and started again on what it left.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type { BlockHasher } from '../../src/agent/hash-blocks.ts';
import type { ResyncReport, ResyncWindow } from '../../src/agent/resync.ts';
import type { AppConsistency } from '../../src/agent/app-consistency.ts';
import type { CutAll } from '../../src/capture/contract.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { LogFields, Logger } from '../../src/observe/logger.ts';
import { compareChecksums } from '../../src/process-server/compare-checksums.ts';
import type { Sealer } from '../../src/process-server/pool.ts';
import { sealBatch } from '../../src/process-server/seal-batch.ts';
import { ProcessServer } from '../../src/process-server/server.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { AgentLife } from './agent-life.ts';
import { DiskModel } from './model.ts';
import { MortalFiles } from './mortal-files.ts';
import { clock, machine, type Surroundings } from './surroundings.ts';
import { TargetLife } from './target-life.ts';
import { Hop, peer } from './wires.ts';

export interface Cut {
  /** Per disk: which of its lives, and how many writes of it. */
  readonly lives: readonly number[];
  readonly writes: readonly number[];
}

export interface SiteOptions {
  readonly blockSize: number;
  /** Bytes of each disk. */
  readonly sizes: readonly number[];
  /** Between cycles. Default: cycles only on request. */
  readonly intervalMs?: number;
  readonly sealer?: Sealer;
  /** Of the agent; default: on its thread. */
  readonly hasher?: BlockHasher;
  /** Of the process server's spool. Default: it has none. */
  readonly spoolBytes?: number;
}

/** Seals on this thread. */
function inlineSealer(): Sealer {
  return {
    pending: 0,
    seal: async (task) => {
      const mine = { ...task, buffer: task.buffer.transfer() };
      await systemClock.turn();
      return sealBatch(mine, clock);
    },
    compare: (task) => Promise.resolve(compareChecksums(task, clock)),
  };
}

export class Site implements Surroundings {
  readonly options: SiteOptions;
  readonly directory = mkdtempSync(path.join(tmpdir(), 'tidemark-pipeline-'));
  readonly disks: DiskModel[];
  readonly agentHop = new Hop();
  readonly targetHop = new Hop();
  /** Every cut made, by its time. */
  readonly cuts = new Map<number, Cut>();
  /** Points the agent was told are committed: number → cut time. */
  readonly acknowledged = new Map<number, number>();
  /** What no role should ever log. */
  readonly alarms: string[] = [];
  /** The last things said, for whoever looks at a failure. */
  readonly said: string[] = [];
  /** What `fatal` of the store was called with. */
  readonly fatal: Problem[] = [];
  intervalMs: number;
  app: AppConsistency | undefined;
  definition: MachineDefinition | null = null;
  /** Why an operator wants no points now. */
  held: string | null = null;
  oldPagesBytesMax = 256 * 1024;
  /** When the resync window opens; null: it is open. */
  resyncOpensAtMs: number | null = null;
  /** Stories write more of their small disks than any policy would let pass. */
  resyncAtDirtyRatio = Infinity;
  readonly hasher: BlockHasher | undefined;
  agent: AgentLife | null = null;
  target: TargetLife | null = null;
  processServer: ProcessServer | null = null;
  /** Of the newest process server. */
  spoolFiles = new MortalFiles(posixFiles);
  readonly #sealer: Sealer;

  constructor(options: SiteOptions) {
    this.options = options;
    this.hasher = options.hasher;
    this.intervalMs = options.intervalMs ?? 3_600_000;
    this.#sealer = options.sealer ?? inlineSealer();
    this.disks = options.sizes.map((size, index) => {
      const image = this.dir(`vd${index}.raw`);
      const content = patterned(size, index);
      writeFileSync(image, content);
      return new DiskModel(`vd${index}`, image, content);
    });
  }

  static async started(options: SiteOptions): Promise<Site> {
    const site = new Site(options);
    await site.startTarget();
    site.newProcessServer();
    await site.startAgent();
    return site;
  }

  dir(name: string): string {
    return path.join(this.directory, name);
  }

  get state(): string {
    return this.dir('state');
  }

  get vaultKey(): string {
    return this.dir('vault.key');
  }

  get blockSize(): number {
    return this.options.blockSize;
  }

  get data(): string {
    return this.dir('data');
  }

  get spool(): string {
    return this.dir('spool');
  }

  get store(): string {
    return path.join(this.data, 'machines', machine);
  }

  disk(index: number): DiskModel {
    const disk = this.disks[index % this.disks.length];
    if (!disk) throw new Error('a site has a disk');
    return disk;
  }

  resyncWindow(): ResyncWindow {
    const opensAtMs = this.resyncOpensAtMs;
    return opensAtMs === null || clock.wallMs() >= opensAtMs ? { open: true } : { open: false, opensAtMs };
  }

  // ---- roles ----------------------------------------------------------------------------------------------------------------

  async startAgent(): Promise<void> {
    this.agent = await AgentLife.start(this);
  }

  /** Ends the agent; whether in order or not, its disks then begin a new life. */
  async endAgent(how: 'close' | 'crash'): Promise<void> {
    const { agent } = this;
    this.agent = null;
    if (how === 'close') await agent?.close();
    else await agent?.crash();
    for (const disk of this.disks) disk.reborn();
  }

  /** While the agent is down. */
  grow(index: number, bytes: number): void {
    const disk = this.disk(index);
    truncateSync(disk.image, disk.size + bytes);
    disk.reborn();
  }

  /** A new instance; the one before ends, or lives on with what it holds, as one that is cut off does. */
  newProcessServer(before: 'ends' | 'lives on' = 'ends'): void {
    if (before === 'ends') this.processServer?.close();
    const { spoolBytes } = this.options;
    const files = new MortalFiles(posixFiles);
    this.spoolFiles = files;
    this.processServer = new ProcessServer({
      connectTarget: () => {
        const { target } = this;
        if (!target) throw new Problem('unreachable', 'there is no target', { retryable: true });
        const [ours, theirs] = this.targetHop.join(peer('process-server', 'ps-1'), peer('target', 't-1'));
        target.target.accept(theirs);
        return Promise.resolve(ours);
      },
      spool: spoolBytes === undefined ? null : { directory: this.spool, bytesMax: spoolBytes, files },
      sealer: this.#sealer,
      clock,
      random: systemRandom,
      logger: this.logger('process-server', () => !files.dead),
      version: 'test',
    });
  }

  /** With a spool: the next one finds what this one left there. */
  async restartProcessServer(how: 'close' | 'crash'): Promise<void> {
    const { processServer, spoolFiles } = this;
    this.processServer = null;
    const dying = how === 'crash' ? spoolFiles.die() : undefined;
    if (how === 'crash') for (const hop of [this.agentHop, this.targetHop]) hop.cutAfter(0);
    processServer?.close();
    if (how === 'close') await processServer?.settled();
    await dying;
    this.newProcessServer('lives on');
  }

  async startTarget(): Promise<void> {
    this.target = await TargetLife.start(this);
  }

  async endTarget(how: 'close' | 'crash'): Promise<void> {
    const { target } = this;
    this.target = null;
    if (how === 'close') await target?.close();
    else await target?.crash();
  }

  /** Ends what runs and removes every file. */
  async remove(): Promise<void> {
    const { agent } = this;
    this.agent = null;
    await agent?.crash();
    this.processServer?.close();
    await this.endTarget('crash');
    rmSync(this.directory, { recursive: true, force: true });
  }

  // ---- what happens to the disks --------------------------------------------------------------------------------------------

  /** Resolves when the change has ended; while the agent is down nothing happens. */
  async write(index: number, offset: number, bytes: Uint8Array | number): Promise<void> {
    const disk = this.disk(index);
    const length = typeof bytes === 'number' ? bytes : bytes.byteLength;
    while (disk.overlaps(offset, length)) await systemClock.sleep(1);
    const { agent } = this;
    if (!agent) return;
    const capture = agent.captureOf(disk);
    const issued =
      typeof bytes === 'number' ? capture.zero(offset, bytes, false, true) : capture.write(bytes, offset, false);
    const ended = disk.change(offset, length, typeof bytes === 'number' ? null : bytes);
    await Promise.race([issued.then(ended), agent.dead]);
  }

  /** A cut whose content the model knows. */
  watched(cutAll: CutAll): CutAll {
    const lives = this.disks.map((disk) => disk.life);
    return async (disks, drainMs) => {
      const report = await cutAll(disks, drainMs);
      if (report) this.cuts.set(report.cutTimeMs, { lives, writes: report.writes });
      return report;
    };
  }

  // ---- waiting --------------------------------------------------------------------------------------------------------------

  /** Waits until `what` holds. @throws with the last log lines after `ms`. */
  async until(what: () => boolean, because: string, ms = 10_000): Promise<void> {
    const endMs = clock.monotonicMs() + ms;
    while (!what()) {
      if (this.agent?.agent.report().state === 'critical') throw new Error(`${because}: critical\n${this.story()}`);
      if (clock.monotonicMs() > endMs) throw new Error(`${because}: not in ${ms} ms\n${this.story()}`);
      await systemClock.sleep(2);
    }
  }

  story(): string {
    return `${JSON.stringify(this.agent?.agent.report() ?? 'no agent')}\n${this.said.slice(-40).join('\n')}`;
  }

  /** Makes a point of a cut that begins after this call, and waits for its acknowledgement. Answers its number. */
  async point(ms = 10_000): Promise<number> {
    const fromMs = clock.wallMs();
    let found = 0;
    const newer = (): boolean => {
      for (const [point, cutTimeMs] of this.acknowledged) if (cutTimeMs > fromMs) found = point;
      const report = found === 0 ? this.agent?.agent.report() : undefined;
      if (report?.state === 'idle' && report.flow.pointsInFlight === 0) this.agent?.agent.requestCycle();
      return found > 0;
    };
    await this.until(newer, 'a new point', ms);
    return found;
  }

  /** What the agent says of a disk's comparison with its replica. */
  resyncOf(index = 0): ResyncReport | null {
    return this.agent?.agent.report().disks[index]?.resync ?? null;
  }

  stateOf(point: number): string {
    return this.target?.store?.points.stateOf(point) ?? 'no store';
  }

  async proven(point: number): Promise<void> {
    await this.until(() => this.stateOf(point) === 'proven', `point ${point} proven`);
  }

  // ---- logging --------------------------------------------------------------------------------------------------------------

  logger(role: string, alive: () => boolean = () => true): Logger {
    const say = (level: string) => (fields: LogFields, message: string) => {
      if (!alive()) return;
      const { error, ...rest } = fields;
      const line = `${role} ${level} ${message} ${JSON.stringify(rest)} ${describe(error)}`;
      this.said.push(line);
      if (error !== undefined) this.alarms.push(line);
      const { point, cutTimeMs } = fields;
      if (
        role === 'agent' &&
        message === 'point committed' &&
        typeof point === 'number' &&
        typeof cutTimeMs === 'number'
      )
        this.acknowledged.set(point, cutTimeMs);
    };
    const logger: Logger = {
      debug: say('debug'),
      info: say('info'),
      warn: say('warn'),
      error: say('error'),
      child: () => logger,
    };
    return logger;
  }
}

function describe(error: unknown): string {
  if (error === undefined) return '';
  return error instanceof Error ? (error.stack ?? error.message) : JSON.stringify(error);
}

/** The last one of each seed: most sites of a file have the same disks. */
const lastPatterned = new Map<number, Buffer>();

/** Some content, some zeros; to be looked at only. */
function patterned(bytes: number, seed: number): Buffer {
  const last = lastPatterned.get(seed);
  if (last?.byteLength === bytes) return last;
  const image = Buffer.alloc(bytes);
  lastPatterned.set(seed, image);
  for (let at = 0; at < bytes; at += 100_003) image.fill(`${seed}:${at};`, at, Math.min(bytes, at + 37_000));
  return image;
}
