/**
 * A protected machine with one small disk: the product's agent over TLS, a writer that never waits for it, and the model of what was written. It has several
 * process servers, and no control to say which.
 */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { Agent } from '../../src/agent/agent.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { ProcessServerChoice } from '../../src/main/process-server-choice.ts';
import type { Logger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { connect } from '../../src/transport/client.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { DiskModel } from '../pipeline/model.ts';
import { denseBytes, diceOf, KiB, MiB, type Dice } from '../product/content.ts';

export const disk = { name: 'vda', blockBytes: 64 * KiB, bytes: 4 * MiB } as const;
/** Less than half of the disk: more would be a resync, which is another test. */
const writtenBytes = 1.5 * MiB;
export const intervalMs = 2000;
const write = { everyMs: 200, bytes: 32 * KiB } as const;
const content = denseBytes(1, MiB);

export interface MachineOptions {
  readonly name: string;
  readonly directory: string;
  readonly credentials: Credentials;
  /** Ports on this host, the preferred one first. */
  readonly processServers: readonly number[];
  readonly logger: Logger;
  readonly seed: number;
}

/** Age of the newest cut that is durable at the target, and what was changed since and is not. */
export interface Lag {
  readonly ms: number;
  readonly bytes: number;
}

export class PressuredMachine {
  readonly name: string;
  readonly model: DiskModel;
  /** By cut time: how many writes it includes. */
  readonly cuts = new Map<number, number>();
  /** Writes that failed. */
  readonly failed: unknown[] = [];
  readonly #capture: NbdCapture;
  readonly #replica: ReplicaDisk;
  readonly #agent: Agent;
  readonly #loop: Promise<void>;
  readonly #dice: Dice;
  readonly #startedMs = clock.wallMs();
  #writer: { cancel(): void } | null = null;
  readonly #underWay = new Set<Promise<void>>();

  private constructor(options: MachineOptions, model: DiskModel, capture: NbdCapture, replica: ReplicaDisk) {
    const { name, credentials, processServers, logger, seed } = options;
    this.name = name;
    this.model = model;
    this.#capture = capture;
    this.#replica = replica;
    this.#dice = diceOf(seed);
    const addresses = processServers.map((port) => ({ host: '127.0.0.1', port }));
    const choice = new ProcessServerChoice(addresses, () => [], clock);
    const cutAll = makeCutAll(clock);
    this.#agent = new Agent({
      machine: name,
      version: 'test',
      disks: [replica],
      cutAll: async (disks, drainMs) => {
        const cut = await cutAll(disks, drainMs);
        if (cut) this.cuts.set(cut.cutTimeMs, cut.writes[0] ?? 0);
        return cut;
      },
      connect: (signal) =>
        choice.connect((address) => connect({ ...address, credentials, expectRole: 'process-server', clock, signal })),
      onEnded: (reason) => choice.ended(reason),
      intervalMs: () => intervalMs,
      compression: () => 'lz4',
      ...{ clock, random, logger },
    });
    this.#loop = this.#agent.run();
  }

  static async start(options: MachineOptions): Promise<PressuredMachine> {
    const { name, seed } = options;
    const directory = path.join(options.directory, name);
    mkdirSync(directory);
    const image = path.join(directory, 'disk.raw');
    writeFileSync(image, denseBytes(seed, writtenBytes));
    truncateSync(image, disk.bytes);
    const capture = await openNbdCapture({
      ...{ files, clock, random, image, name: disk.name, owner: `${name}/${disk.name}`, blockSize: disk.blockBytes },
      stateDirectory: directory,
      hadLog: false,
      lock: () => Promise.resolve({ release: () => Promise.resolve() }),
    });
    const replica = await ReplicaDisk.open({ capture, files, directory, state: null });
    return new PressuredMachine(options, new DiskModel(disk.name, image), capture, replica);
  }

  get lag(): Lag {
    const { lastPoint, disks } = this.#agent.report();
    const cutMs = lastPoint?.cutTimeMs ?? this.#startedMs;
    return { ms: clock.wallMs() - cutMs, bytes: disks[0]?.lagBytes ?? 0 };
  }

  /** Of the newest point that was committed; 0: there is none. */
  get newestCutMs(): number {
    return this.#agent.report().lastPoint?.cutTimeMs ?? 0;
  }

  get newestPoint(): number {
    return this.#agent.report().lastPoint?.point ?? 0;
  }

  /** For whoever looks at a failure. */
  get story(): string {
    const { state, reason, flow } = this.#agent.report();
    return `${this.name}: ${state} ${reason}, ${flow.pointsInFlight} points in flight, ${JSON.stringify(this.lag)}`;
  }

  beginWriting(): void {
    this.#writer = clock.every(write.everyMs, () => this.#write());
  }

  async endWriting(): Promise<void> {
    this.#writer?.cancel();
    await Promise.all(this.#underWay);
  }

  /** In order. */
  async close(): Promise<void> {
    await this.endWriting();
    this.#agent.stop();
    await this.#loop;
    await this.#replica.close();
  }

  #write(): void {
    const length = this.#dice.between(write.bytes / 2, (write.bytes * 3) / 2);
    const offset = this.#dice.between(0, writtenBytes - length);
    if (this.model.overlaps(offset, length)) return;
    const from = this.#dice.between(0, content.byteLength - length);
    const bytes = content.subarray(from, from + length);
    const issued = this.#capture.write(bytes, offset, false);
    const ended = this.model.change(offset, length, bytes);
    const writing = issued
      .then(ended, (error: unknown) => void this.failed.push(error))
      .finally(() => this.#underWay.delete(writing));
    this.#underWay.add(writing);
  }
}
