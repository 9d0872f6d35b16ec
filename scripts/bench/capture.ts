/**
 * What a writer gets through the agent's NBD splitter, beside what serves disks without replicating them: `fio` through a Unix socket into the agent,
 * into `qemu-nbd` (raw, with its defaults: cache=writeback, a pool of threads) and into `nbdkit file`, each with an image of its own of the same
 * bytes, all of it in the page cache and without dirty pages when a run begins. All three serve from begin to end; the order is turned round from
 * run to run, and medians count.
 *
 *  - *Replication off*: the first point is committed and the next cycle is an hour away, so nothing is read, hashed or sent. Tracking goes on: every
 *    write is marked before it is issued and before it is answered, as it always is. What that costs a writer is seen beside an image that the same
 *    server serves with nothing remembered of it (`untracked-disk.ts`).
 *  - *Replication on*: a cycle every second into a process server and a target on this machine, and another writer that dirties 20 MB/s of the same
 *    disk. What fio writes is replicated, too; where it is a multiple of that, the roles work at their limit on the writer's processors.
 */
import { copyFile, mkdir, open, rm, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { missingPrograms, Server } from '../demo/programs.ts';
import { Site } from '../demo/site.ts';
import { fioCases, quickFioCases, runFio, type FioCase, type Speed } from './capture-fio.ts';
import { makeContent, warm } from './content.ts';
import { writeSteadily } from './dirty-writer.ts';
import { median, rounded } from './figures.ts';
import { operator } from './operator.ts';
import type { Run } from './section.ts';
import { until } from './until.ts';
import { untrackedDiskPath } from './untracked-disk.ts';

/** Of the same case: ours ÷ theirs, or on ÷ off. Of the p99 less is better. */
export interface SpeedRatio {
  readonly throughput: number;
  readonly p99: number;
}

export interface CaptureCase {
  readonly name: string;
  readonly ours: Speed;
  /** Null: not installed. */
  readonly qemuNbd: Speed | null;
  readonly nbdkit: Speed | null;
  /** Our own server, nothing tracked. Null: a case that reads only. */
  readonly untracked: Speed | null;
  readonly ratios: Readonly<Record<'qemuNbd' | 'nbdkit' | 'untracked', SpeedRatio | null>>;
  /** Null: measured without only. */
  readonly replicationOn: (Speed & { readonly toOff: SpeedRatio }) | null;
}

export interface CaptureFigures {
  readonly diskBytes: number;
  /** Runs that each figure is the median of. */
  readonly turns: number;
  /** Of the other writer while replication is on, measured; null when nothing was. */
  readonly churnMbps: number | null;
  /** What the agent sent, pages before compression, from the first run to the end of the last one. */
  readonly sentBytes: { readonly off: number; readonly on: number };
  readonly cases: readonly CaptureCase[];
  /** Programs that are not installed; without fio there are no cases. */
  readonly absent: readonly string[];
}

interface Served {
  readonly key: 'ours' | 'untracked' | 'qemuNbd' | 'nbdkit';
  readonly image: string;
  readonly uri: string;
}

interface Plan {
  readonly size: number;
  readonly turns: number;
  readonly runMs: number;
  readonly cases: readonly FioCase[];
}

const disk = 'disk0';
const MiB = 1024 ** 2;
const churn = { bytesPerSecond: 20e6, writeBytes: 65_536 };
/** The other writer begins before fio, which takes a moment to begin, and ends after it. */
const churnLongerMs = 300;
const hourSeconds = 3600;
const calmPollMs = 200;
const goals = {
  large: { qemuNbd: 1, nbdkit: 0.6 },
  small: { qemuNbd: 2, nbdkit: 0.9 },
  on: 0.9,
} as const;

function medianOf(speeds: readonly Speed[]): Speed {
  const of = (pick: (speed: Speed) => number, digits: number): number => rounded(median(speeds.map(pick)), digits);
  return { mbps: of(({ mbps }) => mbps, 1), iops: of(({ iops }) => iops, 0), p99Ms: of(({ p99Ms }) => p99Ms, 3) };
}

function ratioOf(one: Speed, other: Speed): SpeedRatio {
  return { throughput: rounded(one.iops / other.iops), p99: rounded(one.p99Ms / other.p99Ms) };
}

/** All its pages written back, so that nobody's run pays for the run before. */
async function settle(image: string): Promise<void> {
  const file = await open(image, 'r+');
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}

const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  );

const nbdUri = (socket: string): string => `nbd+unix:///${disk}?socket=${socket}`;

/** Programs that serve a raw image on a socket, as users start them. */
const peerCommands = {
  qemuNbd: (socket: string, image: string) => ['qemu-nbd', '-t', '-f', 'raw', '-k', socket, '-x', disk, image],
  nbdkit: (socket: string, image: string) => ['nbdkit', '-f', '-U', socket, 'file', image],
  untracked: (socket: string, image: string) => [process.execPath, untrackedDiskPath, image, socket],
} as const;

/** Until everything that was written is in a point and every point is proven: nobody is at work any more. */
async function calm(site: Site): Promise<void> {
  const ofTarget = (kind: string): Promise<number | undefined> =>
    site.metric('target', `tidemark_newest_${kind}_point_cut_timestamp_seconds`);
  const isCalm = async (): Promise<boolean> => {
    if ((await site.metric('agent', 'tidemark_disk_lag_bytes')) !== 0) return false;
    const [newest, proven] = [await ofTarget('committed'), await ofTarget('proven')];
    return newest !== undefined && newest === proven;
  };
  await until('the proof of all that was written', isCalm, calmPollMs);
}

async function sentMeanwhile<T>(site: Site, work: () => Promise<T>): Promise<readonly [bytes: number, T]> {
  const sent = async (): Promise<number> =>
    (await site.metric('agent', 'tidemark_agent_payload_sent_bytes_total')) ?? 0;
  const before = await sent();
  const result = await work();
  return [(await sent()) - before, result];
}

class Speeds {
  readonly #found = new Map<string, Speed[]>();

  add(who: string, { name }: FioCase, speed: Speed): void {
    const key = `${who} ${name}`;
    this.#found.set(key, [...(this.#found.get(key) ?? []), speed]);
  }

  /** Null where nothing was measured. */
  of(who: string, { name }: FioCase): Speed | null {
    const found = this.#found.get(`${who} ${name}`);
    return found ? medianOf(found) : null;
  }
}

async function measureOff(all: readonly Served[], { cases, turns, size, runMs }: Plan, speeds: Speeds): Promise<void> {
  // The first runs after idling are slower for everybody.
  for (const { uri } of all) for (const each of cases.slice(0, 1)) await runFio(uri, each, size, runMs);
  for (let turn = 0; turn < turns; turn += 1) {
    for (const [index, each] of cases.entries()) {
      const first = (turn + index) % all.length;
      for (const { key, uri, image } of [...all.slice(first), ...all.slice(0, first)]) {
        if (key === 'untracked' && each.rw.endsWith('read')) continue;
        await settle(image);
        speeds.add(key, each, await runFio(uri, each, size, runMs));
      }
    }
  }
}

/** Answers the rate of the other writer, MB/s. */
async function measureOn(site: Site, ours: Served, plan: Plan, seed: number, speeds: Speeds): Promise<number | null> {
  const rates: number[] = [];
  const content = Buffer.alloc(4 * MiB);
  const file = await open(ours.image, 'r');
  await file.read(content, 0, content.length, 0);
  await file.close();
  const client = await connectNbd({ unixPath: site.socketOf(disk) }, { exportName: disk, clock: systemClock });
  try {
    for (let turn = 0; turn < plan.turns; turn += 1) {
      for (const each of plan.cases.filter(({ withReplication }) => withReplication)) {
        await settle(ours.image);
        const seconds = (plan.runMs + 2 * churnLongerMs) / 1000;
        const writing = writeSteadily([client], { ...churn, seconds, content, seed: seed + turn });
        const [{ bytesPerSecond }, speed] = await Promise.all([
          writing,
          systemClock.sleep(churnLongerMs).then(() => runFio(ours.uri, each, plan.size, plan.runMs)),
        ]);
        rates.push(bytesPerSecond / 1e6);
        speeds.add('on', each, speed);
      }
      await calm(site);
    }
  } finally {
    client.destroy();
  }
  return rates.length > 0 ? rounded(median(rates), 1) : null;
}

function planOf({ size, quick }: Run): Plan {
  if (quick) return { size: Math.min(size, 64 * MiB), turns: 1, runMs: 200, cases: quickFioCases };
  return { size: Math.min(size, 256 * MiB), turns: 3, runMs: 350, cases: fioCases };
}

/** Serves copies of the image by those peers that are installed. */
async function startPeers(directory: string, image: string, absent: readonly string[]) {
  const peers: { readonly served: Served; readonly server: Server }[] = [];
  for (const key of ['qemuNbd', 'nbdkit', 'untracked'] as const) {
    const copy = path.join(directory, `${key}.raw`);
    const socket = path.join(directory, `${key}.sock`);
    const [program = '', ...args] = peerCommands[key](socket, copy);
    if (absent.includes(program)) continue;
    await copyFile(image, copy);
    await settle(copy);
    const server = new Server(program, args);
    peers.push({ served: { key, image: copy, uri: nbdUri(socket) }, server });
    await server.until('serving', () => exists(socket));
  }
  return peers;
}

function figuresOf(speeds: Speeds, each: FioCase): CaptureCase {
  const [ours, on] = [speeds.of('ours', each), speeds.of('on', each)];
  if (!ours) throw new Error(`${each.name} was not measured`);
  const others = {
    qemuNbd: speeds.of('qemuNbd', each),
    nbdkit: speeds.of('nbdkit', each),
    untracked: speeds.of('untracked', each),
  };
  const toOurs = (speed: Speed | null): SpeedRatio | null => speed && ratioOf(ours, speed);
  return {
    name: each.name,
    ours,
    ...others,
    ratios: {
      qemuNbd: toOurs(others.qemuNbd),
      nbdkit: toOurs(others.nbdkit),
      untracked: toOurs(others.untracked),
    },
    replicationOn: on && { ...on, toOff: ratioOf(on, ours) },
  };
}

async function withSite(run: Run, plan: Plan, image: string, absent: readonly string[]): Promise<CaptureFigures> {
  const { directory, seed, say } = run;
  const ownPlace = path.join(directory, 'site');
  await mkdir(ownPlace);
  const disks = [{ name: disk, image }];
  const site = new Site({
    directory: ownPlace,
    machine: 'bench',
    disks,
    intervalSeconds: hourSeconds,
    compression: 'lz4',
    run: operator,
  });
  const peers = await startPeers(directory, image, absent);
  const speeds = new Speeds();
  try {
    await site.enrollAll();
    await site.startTarget();
    await site.startProcessServer();
    await site.startAgent();
    await calm(site);
    const ours: Served = { key: 'ours', image, uri: nbdUri(site.socketOf(disk)) };
    say(`fio: ${plan.cases.length} cases, ${plan.turns} times each, replication off`);
    const all = [ours, ...peers.map(({ served }) => served)];
    const [off] = await sentMeanwhile(site, () => measureOff(all, plan, speeds));
    await site.role('agent').stop();
    say('  the same with replication on');
    await site.startAgent({ intervalSeconds: 1 });
    await calm(site);
    const [on, churnMbps] = await sentMeanwhile(site, () => measureOn(site, ours, plan, seed, speeds));
    const cases = plan.cases.map((each) => figuresOf(speeds, each));
    return { diskBytes: plan.size, turns: plan.turns, churnMbps, sentBytes: { off, on }, cases, absent };
  } finally {
    for (const { server } of peers) await server.stop();
    await site.stop();
  }
}

/** @throws Error when something that is installed could not be measured. */
export async function measureCapture(run: Run): Promise<CaptureFigures> {
  const plan = planOf(run);
  const absent = await missingPrograms('fio', 'qemu-nbd', 'nbdkit');
  for (const name of absent) run.say(`  ${name} is not installed`);
  if (absent.includes('fio'))
    return { diskBytes: plan.size, turns: 0, churnMbps: null, sentBytes: { off: 0, on: 0 }, cases: [], absent };
  const image = path.join(run.directory, 'disk.raw');
  const original = path.join(run.directory, 'original.raw');
  await makeContent(original, plan.size, run.seed);
  // Copied as the peers' images are: how a file was written decides in which pieces the page cache holds it, and so what a small write costs.
  await copyFile(original, image);
  await rm(original);
  await warm(image);
  return withSite(run, plan, image, absent);
}

function ratioText(what: string, ratio: SpeedRatio | null, goal: number | null): string {
  if (!ratio) return `${what} not measured`;
  return `${what} ${ratio.throughput.toFixed(2)}${goal === null ? '' : ` (goal ${goal})`}, p99 ${ratio.p99.toFixed(2)}`;
}

/** For people. */
export function captureLines({ cases, absent, diskBytes, turns, churnMbps }: CaptureFigures): string[] {
  if (cases.length === 0) return [`capture: not measured, ${absent.join(', ')} not installed`];
  const row = (what: string, speed: Speed | null): string[] =>
    speed
      ? [
          `    ${what.padEnd(24)} ${speed.mbps.toFixed(0).padStart(6)} MB/s ${speed.iops.toFixed(0).padStart(8)} IOPS  p99 ${speed.p99Ms.toFixed(2)} ms`,
        ]
      : [];
  const other = churnMbps === null ? '' : `; replication on: with another writer of ${churnMbps} MB/s`;
  return [
    `capture: fio through NBD, ${diskBytes / MiB} MiB, medians of ${turns}, ours ÷ theirs${other}`,
    ...cases.flatMap(({ name, ours, qemuNbd, nbdkit, untracked, ratios, replicationOn }) => {
      const goal = name.startsWith('4 KiB') ? goals.small : goals.large;
      return [
        `  ${name}: ${ratioText('qemu-nbd', ratios.qemuNbd, goal.qemuNbd)}; ${ratioText('nbdkit', ratios.nbdkit, goal.nbdkit)}`,
        ...(replicationOn ? [`    ${ratioText('replication on ÷ off', replicationOn.toOff, goals.on)}`] : []),
        ...(untracked ? [`    ${ratioText('tracked ÷ not tracked', ratios.untracked, null)}`] : []),
        ...row('tidemark', ours),
        ...row('tidemark, not tracked', untracked),
        ...row('tidemark, replication on', replicationOn),
        ...row('qemu-nbd', qemuNbd),
        ...row('nbdkit file', nbdkit),
      ];
    }),
  ];
}
