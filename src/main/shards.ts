/**
 * `process-server --shards N`: N processes behind one port, each a process server with its part of the memory, the workers and the spool, and
 * this one, which keeps them. An agent's connection is a shard's for its life; who connects again may come to another one.
 *
 * The port is shared by `node:cluster`: the keeper accepts and hands each connection to the next shard that is free for it. `SO_REUSEPORT` was tried: there
 * the kernel spreads connections by their addresses, so that few agents sit together by chance, and a shard that hangs goes on getting its part.
 *
 *  1. A shard that ends is started again, after a pause that grows while it ends soon. Until then the others get all connections.
 *  2. An agent is with one shard: what another one still has of the machine (a half-open session, something spooled) ends when the agent
 *     comes here. Two would supersede each other at the target for ever.
 *  3. To control the shards are one process server: one report, one answer.
 *  4. The shards end with the keeper, in whatever way it ends.
 *  5. What a start with another number of processes left in the spool is the first shard's to drain (`spool-places.ts`).
 */
import cluster, { type Worker } from 'node:cluster';
import type { Running } from '../cli/roles.ts';
import type { ProcessServerConfig } from '../config.ts';
import type { ProcessServerReport } from '../control/report-schemas.ts';
import { Backoff } from '../kit/backoff.ts';
import type { Timer } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import { controlLink } from './control-link.ts';
import { credentialsFor, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import type { FromShard, ShardPlan, ToShard } from './shard-messages.ts';
import { mergedReport } from './shard-report.ts';

const { shardRestartBaseMs, shardRestartMaxMs, shardSteadyMs, shardCloseMs } = limits.processServer;

type Ready = Extract<FromShard, { kind: 'ready' }>;

/** One place of the N, whichever process is in it. */
class Place {
  readonly #plan: ShardPlan;
  readonly #parts: Parts;
  readonly #logger: Logger;
  readonly #backoff: Backoff;
  /** Runs when it was started again and has not ended for a while. */
  #steady: Timer | null = null;
  readonly #heard: (from: Place, message: FromShard) => void;
  #worker: Worker | null = null;
  #closing = false;
  /** The newest of the process that is in it. */
  report: ProcessServerReport | null = null;

  constructor(plan: ShardPlan, parts: Parts, logger: Logger, heard: (from: Place, message: FromShard) => void) {
    this.#plan = plan;
    this.#parts = parts;
    this.#logger = logger.child({ shard: plan.index });
    this.#heard = heard;
    this.#backoff = new Backoff({ baseMs: shardRestartBaseMs, maxMs: shardRestartMaxMs, random: parts.random });
  }

  /** Resolves when it takes connections. @throws Problem of the shard that could not start. */
  async start(): Promise<Ready['reachable']> {
    const worker = this.#fork();
    const ready = Promise.withResolvers<Ready>();
    worker.on('message', (message: FromShard) => {
      if (message.kind === 'ready') ready.resolve(message);
      else if (message.kind === 'failed')
        ready.reject(new Problem(message.code, message.message, { remedy: message.remedy }));
    });
    const { index } = this.#plan;
    worker.once('exit', (code, signal) =>
      ready.reject(new Problem('internal', `shard ${index} ended (${signal || code}) before it was ready`)),
    );
    const { reachable } = await ready.promise;
    worker.once('exit', (code, signal) => this.#ended(signal || String(code)));
    this.#logger.info({ pid: worker.process.pid, metrics: whereOf(reachable, 'metrics') }, 'a shard takes connections');
    return reachable;
  }

  tell(message: ToShard): void {
    if (this.#worker?.isConnected() === true) this.#worker.send(message);
  }

  async close(): Promise<void> {
    this.#closing = true;
    const worker = this.#worker;
    if (!worker || worker.isDead()) return;
    const gone = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    this.tell({ kind: 'close' });
    const late = this.#parts.clock.after(shardCloseMs, () => worker.process.kill('SIGKILL'));
    await gone;
    late.cancel();
  }

  #fork(): Worker {
    const program = process.argv[1] ?? '';
    cluster.setupPrimary({ exec: program, args: ['process-server-shard', JSON.stringify(this.#plan)] });
    const worker = cluster.fork();
    this.#worker = worker;
    worker.on('message', (message: FromShard) => this.#heard(this, message));
    worker.on('error', (error) => this.#logger.warn({ error }, 'a shard does not hear'));
    return worker;
  }

  /** 1. */
  #ended(how: string): void {
    this.#steady?.cancel();
    this.#worker = null;
    this.report = null;
    if (this.#closing) return;
    const { clock } = this.#parts;
    const afterMs = Math.round(this.#backoff.nextMs());
    this.#logger.error({ how, afterMs }, 'a shard ended; the others take its agents until it is started again');
    const again = (): void => {
      if (this.#closing) return;
      const startedMs = clock.monotonicMs();
      this.start().then(
        () => {
          this.#steady = clock.after(shardSteadyMs, () => this.#backoff.reset());
        },
        () => this.#ended(`not started after ${Math.round(clock.monotonicMs() - startedMs)} ms`),
      );
    };
    clock.after(afterMs, again);
  }
}

const whereOf = (reachable: Ready['reachable'], what: string): string =>
  reachable.find((one) => one.what === what)?.where ?? '';

export function startShards(common: Parts, config: ProcessServerConfig): Promise<Running> {
  const logger = common.loggerOf(config, 'process-server');
  const parts = partsOfRole(common, logger);
  return RoleBuilder.build(async (builder) => {
    const credentials = await credentialsFor(parts, config.credentials, 'process-server');
    const places: Place[] = [];
    const heard = (from: Place, message: FromShard): void => {
      if (message.kind === 'report') from.report = message.report;
      if (message.kind !== 'came') return;
      for (const place of places) if (place !== from) place.tell({ kind: 'elsewhere', machine: message.machine }); // 2
    };
    for (let index = 1; index <= config.shards; index += 1) {
      places.push(new Place({ index, of: config.shards, config }, parts, logger, heard));
    }
    builder.closers.add(async () => {
      await Promise.all(places.map((place) => place.close()));
    });
    const [first, ...others] = places;
    // What stops one stops all: it is said once.
    const reachable = first ? [await first.start()] : [];
    reachable.push(...(await Promise.all(others.map((place) => place.start()))));
    builder.reachable('agents', whereOf(reachable[0] ?? [], 'agents'));
    reachable.forEach((one, at) => builder.reachable(`metrics of shard ${at + 1}`, whereOf(one, 'metrics')));
    const link = controlLink(parts, config, credentials, logger);
    builder.closers.add(() => link.close());
    link.reportEvery(
      () => merged(places, parts),
      (answer) => {
        for (const place of places) place.tell({ kind: 'answer', answer });
        return false;
      },
    );
  }, config.data);
}

function merged(places: readonly Place[], { clock, version }: Parts): ProcessServerReport {
  const reports = places.flatMap(({ report }) => report ?? []);
  const [first] = reports;
  if (first) return mergedReport(reports, first);
  const none = { problems: [], sessions: 0, inFlightBytes: 0, machines: [], spool: null, target: null };
  return { role: 'process-server', atMs: Math.round(clock.wallMs()), version, ...none };
}
