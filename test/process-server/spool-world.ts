/** A process server with a spool, for tests of what it does with it. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { compareChecksums } from '../../src/process-server/compare-checksums.ts';
import type { Sealer } from '../../src/process-server/pool.ts';
import { sealBatch } from '../../src/process-server/seal-batch.ts';
import { ProcessServer, type ProcessServerOptions } from '../../src/process-server/server.ts';
import { features } from '../../src/wire/features.ts';
import { frameType } from '../../src/wire/frame.ts';
import { encodePing } from '../../src/wire/ping.ts';
import { encodePointMessage } from '../../src/wire/point.ts';
import { seqOf } from '../../src/wire/seq.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';
import { runOf } from '../layers.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import { batchOf, FakeAgent, pair, silent } from './fakes.ts';
import { LastingTarget } from './lasting-target.ts';

export const blockSize = 65_536;
export const root = 'cd'.repeat(32);
const sealer: Sealer = {
  pending: 0,
  seal: (task) => Promise.resolve(sealBatch({ ...task, buffer: task.buffer.transfer() }, systemClock)),
  compare: (task) => Promise.resolve(compareChecksums(task, systemClock)),
};

/** A process server with a spool of its own, its target, and a clock that goes when it is told to. */
export class Here {
  readonly directory = mkdtempSync(`${tmpdir()}/tidemark-spool-`);
  readonly clock = new SteppedClock();
  readonly target = new LastingTarget();
  readonly files = new MortalFiles(posixFiles);
  readonly #change: Partial<ProcessServerOptions>;
  readonly #bytesMax: number;
  server: ProcessServer;

  constructor(bytesMax = 64 * MiB, change: Partial<ProcessServerOptions> = {}) {
    this.#change = change;
    this.#bytesMax = bytesMax;
    this.server = this.#newServer();
  }

  #newServer(): ProcessServer {
    return new ProcessServer({
      connectTarget: () => this.target.connect(),
      spool: { directory: this.directory, bytesMax: this.#bytesMax, files: this.files },
      sealer,
      clock: this.clock,
      random: systemRandom,
      logger: silent,
      version: 'test',
      ...this.#change,
    });
  }

  async restart(): Promise<void> {
    await this.#close();
    this.server = this.#newServer();
  }

  /** Time goes on meanwhile: a disk of the test may be slow by its clock. */
  async #close(): Promise<void> {
    this.server.close();
    let isSettled = false;
    void this.server.settled().then(() => (isSettled = true));
    await this.until(() => isSettled, 'settled', 10);
  }

  agent(name = 'm1'): Sending {
    const [agentEnd, serverEnd] = pair(['process-server', 'p1'], ['agent', name]);
    const agent = new FakeAgent(agentEnd);
    this.server.accept(serverEnd);
    return new Sending(this, agent, name);
  }

  /** Lets time pass in steps, with real turns between for disks, until it holds. */
  async until(what: () => boolean, because: string, stepMs = 100, mostMs = 3_600_000): Promise<number> {
    let passed = 0;
    for (let turns = 0; !what(); turns += 1) {
      if (passed > mostMs || turns > 4000)
        throw new Error(`${because}: not after ${passed} ms; ${this.target.faults.join()}`);
      await this.clock.pass(stepMs);
      passed += stepMs;
      await systemClock.sleep(1);
    }
    return passed;
  }

  get used(): number {
    return this.server.spoolReport().usedBytes;
  }

  /** Waits until all batches are written, and what stands behind the last one. */
  async spooled(batches: number): Promise<void> {
    let [before, still] = [0, 0];
    await this.until(() => {
      still = this.used > batches * 4 * blockSize && this.used === before ? still + 1 : 0;
      before = this.used;
      return still >= 40;
    }, 'spooled');
  }

  async remove(): Promise<void> {
    await this.#close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** An agent that makes cycles of one disk, and keeps to its credit and its heartbeat. */
export class Sending {
  readonly agent: FakeAgent;
  readonly #here: Here;
  readonly #name: string;
  readonly #pings;
  sent: string[] = [];
  #counter = 0;
  #epoch = 1;
  cut = 0;

  constructor(here: Here, agent: FakeAgent, name: string) {
    this.#here = here;
    this.agent = agent;
    this.#name = name;
    this.#pings = here.clock.every(1000, () => agent.send(encodePing('ping', 1)));
    void agent.connection.closed.then(() => this.#pings.cancel());
  }

  async open(): Promise<this> {
    this.agent.hello(this.#name, { features: [features.pointsInFlight] });
    await this.#here.until(
      () => this.agent.frames.some(({ type }) => type === frameType.welcome) || this.agent.over,
      'welcome',
      1,
    );
    if (this.agent.over) return this;
    this.agent.openDisk(0, 4096 * blockSize);
    await this.#here.until(() => this.agent.creditBytes > 0 && this.agent.opened.has(0), 'opened', 1);
    this.#epoch = this.agent.opened.get(0)?.epoch ?? 0;
    this.#counter = (this.agent.opened.get(0)?.nextCounter ?? 1) - 1;
    return this;
  }

  get #seq(): number {
    return seqOf(this.#epoch, this.#counter);
  }

  /** True: it went out; false: there was not enough credit. */
  batch(batch: number): boolean {
    const leafKey = new Uint8Array(Buffer.from('aa'.repeat(32), 'hex'));
    const noise = new Uint8Array(randomBytes(blockSize));
    const blocks = [0, 1, 2, 3].map((each) => [batch * 4 + each, noise] as const);
    const frame = batchOf({ disk: 0, seq: this.#seq, batch, leafKey, blocks });
    if (this.agent.creditBytes < frame.byteLength - 8) return false;
    this.agent.creditBytes -= frame.byteLength - 8;
    this.agent.send(frame);
    this.sent.push(`${this.#counter}/${batch}`);
    return true;
  }

  cycle(): void {
    this.#counter += 1;
    this.agent.cycle(0, this.#seq);
  }

  point(consistency: 'crash' | 'app' = 'crash'): void {
    this.cut += 1;
    const disk = {
      disk: 0,
      size: blockSize,
      root,
      layers: runOf([this.#seq]),
      kind: 'delta' as const,
      records: 4,
      payloadBytes: 1,
    };
    this.agent.send(encodePointMessage({ cutTimeMs: this.cut, consistency, disks: [disk] }));
  }

  /** A cycle of so many batches with its point; waits for credit. */
  async whole(batches = 2, consistency: 'crash' | 'app' = 'crash'): Promise<void> {
    this.cycle();
    for (let batch = 0; batch < batches; batch += 1) await this.#here.until(() => this.batch(batch), 'credit');
    this.point(consistency);
  }
}
