/**
 * Starting from a recovery point: seconds from the command to the first checked block, however many points and however large the disk; reading a
 * point through NBD beside `qemu-nbd` serving the same bytes as a raw file and as a compressed qcow2, all by the same client, in turns.
 *
 * The point that is read was replicated by the product and its disk was written a second and third time since, so that it is not the newest one and
 * its blocks lie in many layers. What comes out is compared with the disk as it was.
 */
import { copyFile, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { MiB } from '../../src/kit/sizes.ts';
import { connectNbd } from '../../src/nbd/client.ts';
import { firstDifference } from '../demo/compare.ts';
import { requireSpace } from '../demo/image.ts';
import { commandOk, RoleProcess, tidemark } from '../demo/process.ts';
import { Site } from '../demo/site.ts';
import { makeStartable, mark } from '../demo/boot-sector.ts';
import { median, rounded } from './figures.ts';
import { blockBytes, changeBlocks, chooseBlocks, makeContent, warm } from './content.ts';
import { addIdlePoints, makeLargeStore, type LargeStore } from './large-store.ts';
import { measureBoot, measureRebuild, type RebuildFigures } from './recovery-store.ts';
import { operator } from './operator.ts';
import type { Run } from './section.ts';
import { measureStoreWork, storeWorkLines, type StoreWorkFigures } from './store-work.ts';
import { until, waitMsMax } from './until.ts';
import { missingPrograms, runProgram, Server } from '../demo/programs.ts';

/** Medians over the turns. */
export interface ReadFigures {
  readonly name: string;
  readonly megabytesPerSecond: number;
  readonly randomRead: { readonly iops: number; readonly p50Microseconds: number; readonly p99Microseconds: number };
}

export interface RecoveryResult extends StoreWorkFigures {
  /** From the start of `tidemark nbd` to a checked block in the hands of an NBD client: the newest point and one in the middle, medians. */
  readonly firstBlockSeconds: number;
  readonly firstBlock: { readonly points: number; readonly diskBytes: number; readonly turns: readonly number[] };
  /** The same store with fifteen days of points, one per 30 seconds, the later ones of an idle disk. */
  readonly manyPoints: {
    readonly points: number;
    readonly firstBlockSeconds: number;
    readonly turns: readonly number[];
  };
  /** How long the program alone takes to say its version. */
  readonly startSeconds: number;
  /** From `failover test --boot` to the first words of a machine that needs nothing but its firmware; null: there is no QEMU. */
  readonly bootSeconds: number | null;
  readonly rebuild: RebuildFigures;
  readonly disk: { readonly bytes: number; readonly points: number; readonly pointRead: number };
  readonly read: ReadFigures;
  readonly peers: readonly ReadFigures[] | 'absent';
  /** Sequential: ours ÷ peer's; goals 0.3 and 1.5. */
  readonly ratioToRaw: number | null;
  readonly ratioToCompressed: number | null;
}

const machine = 'bench';
const disk = 'disk0';
const firstMark = 'the disk as of the first point';
const TiB = 1024 ** 4;

/** How much of everything. */
const extents = {
  whole: {
    turns: 3,
    randomReadSeconds: 2,
    points: 10_000,
    largeBytes: 4 * TiB,
    manyPoints: 43_200,
    sizeMax: 512 * MiB,
  },
  quick: { turns: 1, randomReadSeconds: 0.3, points: 100, largeBytes: TiB / 64, manyPoints: 200, sizeMax: 32 * MiB },
} as const;
const provenPollMs = 100;

type Extent = (typeof extents)['whole' | 'quick'];

interface Place {
  readonly data: string;
  readonly machine: string;
  readonly disk: string;
}

/** `tidemark nbd` on a socket; `where` resolves when it serves. */
function servePoint(place: Place, point: number, directory: string): { role: RoleProcess; socket: string } {
  const socket = path.join(directory, 'point.sock');
  const words = ['nbd', place.machine, place.disk, '--data', place.data, '--point', String(point), '--socket', socket];
  return { role: new RoleProcess('nbd', words, path.join(directory, 'nbd.log')), socket };
}

/** From nothing to the first block. */
async function timeFirstBlock(place: Place, point: number, directory: string): Promise<number> {
  const started = performance.now();
  const { role, socket } = servePoint(place, point, directory);
  await role.running;
  const client = await connectNbd({ unixPath: socket }, { exportName: place.disk, clock: systemClock });
  const block = await client.read(0, blockBytes);
  const seconds = (performance.now() - started) / 1000;
  await client.close();
  await role.stop();
  if (block.every((byte) => byte === 0)) throw new Error('the first block is zeros');
  return seconds;
}

/** Of the newest point and one in the middle, in turns. */
async function timeFirstBlocks(store: LargeStore, points: number, turns: number, directory: string): Promise<number[]> {
  const seconds: number[] = [];
  for (let turn = 0; turn < turns; turn += 1)
    seconds.push(await timeFirstBlock(store, points, directory), await timeFirstBlock(store, points / 2, directory));
  return seconds;
}

async function measureFirstBlock({ directory, say }: Run, extent: Extent) {
  const { points, largeBytes: diskBytes, manyPoints, turns } = extent;
  say(`making ${points} points of a sparse disk of ${diskBytes / TiB} TiB`);
  const store = await makeLargeStore(directory, points, diskBytes);
  say('command to first block');
  const seconds = await timeFirstBlocks(store, points, turns, directory);
  const starts: number[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    const started = performance.now();
    await commandOk(tidemark, ['version']);
    starts.push((performance.now() - started) / 1000);
  }
  await addIdlePoints(store, manyPoints);
  const many = await timeFirstBlocks(store, manyPoints, turns, directory);
  await rm(store.data, { recursive: true });
  const digits = (values: readonly number[]): number[] => values.map((each) => rounded(each));
  return {
    firstBlockSeconds: rounded(median(seconds)),
    firstBlock: { points, diskBytes, turns: digits(seconds) },
    manyPoints: { points: manyPoints, firstBlockSeconds: rounded(median(many)), turns: digits(many) },
    startSeconds: rounded(median(starts)),
  };
}

interface Replicated {
  readonly place: Place;
  readonly bootSeconds: number | null;
  readonly rebuild: RebuildFigures;
}

/** The first point, then two more that each changed a tenth of the disk; everything is stopped then. `original`: the disk as of the first. */
async function replicate({ directory, size, seed, say }: Run, original: string): Promise<Replicated> {
  const image = path.join(directory, 'disk.raw');
  await copyFile(original, image);
  const disks = [{ name: disk, image }];
  const how = { intervalSeconds: 3600, compression: 'lz4', reporting: true, run: operator } as const;
  const site = new Site({ directory, machine, disks, ...how });
  try {
    await site.enrollAll();
    const what = ['--disk', disk, '--cpus', '1', '--memory', '64M'];
    await commandOk(operator, ['protect', machine, ...what, ...site.operator]);
    await site.startTarget();
    await site.startProcessServer();
    const proven = async (): Promise<number> =>
      (await site.metric('target', 'tidemark_target_points_proven_total')) ?? 0;
    for (let point = 1; point <= 3; point += 1) {
      say(`replicating point ${point}`);
      if (point > 1) await changeBlocks(image, chooseBlocks(size, 0.1, seed + point), seed + point);
      // Changed behind the agent's back, so it compares the disk with its replica.
      await site.startAgent();
      await until(`the proof of point ${point}`, async () => (await proven()) >= point, provenPollMs);
      await site.role('agent').stop();
    }
    await site.role('process-server').stop();
    await site.role('target').stop();
    say('starting a machine, and a target without its index');
    const bootSeconds = await measureBoot(site, 1, firstMark);
    const rebuild = await measureRebuild(site);
    await rm(image);
    return { place: { data: site.targetData, machine, disk }, bootSeconds, rebuild };
  } finally {
    await site.stop();
  }
}

interface FioResult {
  readonly jobs: readonly { readonly read: { iops: number; clat_ns: { percentile: Record<string, number> } } }[];
}

/** 4 KiB at random places, four at a time. */
async function randomRead(uri: string, seconds: number): Promise<ReadFigures['randomRead']> {
  const job = ['--name=read', '--ioengine=nbd', `--uri=${uri}`, '--rw=randread', '--bs=4k', '--iodepth=4'];
  const run = ['--time_based', `--runtime=${seconds * 1000}ms`, '--output-format=json'];
  const { stdout } = await runProgram('fio', [...job, ...run]);
  const { read } = (JSON.parse(stdout.slice(stdout.indexOf('{'))) as FioResult).jobs[0] ?? {};
  if (!read) throw new Error('fio said nothing');
  const percentile = (name: string): number => Math.round((read.clat_ns.percentile[name] ?? Number.NaN) / 1000);
  return {
    iops: Math.round(read.iops),
    p50Microseconds: percentile('50.000000'),
    p99Microseconds: percentile('99.000000'),
  };
}

interface Way {
  readonly name: string;
  /** Serves the disk on the socket. */
  readonly serve: (socket: string) => Promise<() => Promise<void>>;
}

function peerWay(name: string, format: string, file: string): Way {
  return {
    name,
    async serve(socket) {
      const server = new Server('qemu-nbd', ['-r', '-f', format, '-k', socket, '-t', '-e', '8', '-x', disk, file]);
      // The socket is there before anybody listens.
      await until(name, () =>
        connectNbd({ unixPath: socket }, { exportName: disk, clock: systemClock }).then(
          (client) => client.close().then(() => true),
          () => false,
        ),
      );
      return () => server.stop();
    },
  };
}

/** Every way in turn, on warm files. */
async function measureReads(ways: readonly Way[], { directory, size }: Run, extent: Extent): Promise<ReadFigures[]> {
  const { turns, randomReadSeconds } = extent;
  const rates = ways.map((): number[] => []);
  const randoms = ways.map((): ReadFigures['randomRead'][] => []);
  for (let turn = 0; turn < turns; turn += 1) {
    for (const [index, way] of ways.entries()) {
      const socket = path.join(directory, 'read.sock');
      const stop = await way.serve(socket);
      const uri = `nbd+unix:///${disk}?socket=${socket}`;
      try {
        const { seconds } = await runProgram('nbdcopy', ['--connections=1', uri, 'null:']);
        rates[index]?.push(size / 1e6 / seconds);
        randoms[index]?.push(await randomRead(uri, randomReadSeconds));
      } finally {
        await stop();
        await rm(socket, { force: true });
      }
    }
  }
  return ways.map(({ name }, index) => {
    const of = (pick: (one: ReadFigures['randomRead']) => number): number => median((randoms[index] ?? []).map(pick));
    return {
      name,
      megabytesPerSecond: Math.round(median(rates[index] ?? [])),
      randomRead: {
        iops: of(({ iops }) => iops),
        p50Microseconds: of(({ p50Microseconds }) => p50Microseconds),
        p99Microseconds: of(({ p99Microseconds }) => p99Microseconds),
      },
    };
  });
}

async function verify(place: Place, point: number, original: string, directory: string): Promise<void> {
  const exported = path.join(directory, 'exported.raw');
  const words = ['export', place.machine, place.disk, '--data', place.data, '--point', String(point), '--to', exported];
  await commandOk(tidemark, words, { timeoutMs: waitMsMax });
  const difference = await firstDifference(original, exported);
  await rm(exported);
  if (difference !== null) throw new Error(`point ${point} differs from the disk as it was from byte ${difference} on`);
}

function ourWay({ data }: Place, point: number, directory: string): Way {
  return {
    name: 'tidemark nbd',
    async serve(socket) {
      const words = ['nbd', machine, disk, '--data', data, '--point', String(point), '--socket', socket];
      const role = new RoleProcess('nbd', words, path.join(directory, 'nbd.log'));
      await role.running;
      return async () => {
        await role.stop();
      };
    },
  };
}

/** The disk as it is at its first point, and whoever else can serve it; none where QEMU is not installed. */
async function makeDisk({ directory, size, seed, say }: Run, original: string): Promise<Way[]> {
  await makeContent(original, size, seed);
  await makeStartable(original, size);
  await mark(original, size, firstMark);
  if ((await missingPrograms('qemu-nbd', 'qemu-img')).length > 0) {
    say('  qemu-nbd is not installed: no peer is measured');
    return [];
  }
  say('compressing the disk for the peer');
  const compressed = path.join(directory, 'original.qcow2');
  // On all cores, so not in the order of the disk; what is read lies in the page cache.
  await runProgram('qemu-img', ['convert', '-c', '-W', '-f', 'raw', '-O', 'qcow2', original, compressed]);
  await warm(original, compressed);
  return [peerWay('qemu-nbd, raw', 'raw', original), peerWay('qemu-nbd, compressed qcow2', 'qcow2', compressed)];
}

/** @throws Error when something could not be measured, or a result was not identical. */
export async function measureRecovery(given: Run): Promise<RecoveryResult> {
  const extent = extents[given.quick ? 'quick' : 'whole'];
  const run = { ...given, size: Math.min(given.size, extent.sizeMax) };
  const { directory, size, say, seed, quick } = run;
  await requireSpace(directory, Math.max(size * 6, 2048 * MiB));
  const missing = await missingPrograms('nbdcopy', 'fio');
  if (missing.length > 0) throw new Error(`${missing.join(', ')} not installed (Debian: libnbd-bin fio)`);
  const original = path.join(directory, 'original.raw');
  const peerWays = await makeDisk(run, original);
  const first = await measureFirstBlock(run, extent);
  say('fold, ingest beside it, and the check of what is stored');
  const work = await measureStoreWork(path.join(directory, 'work'), { seed, quick });
  await rm(path.join(directory, 'work'), { recursive: true });
  const { place, ...started } = await replicate(run, original);
  const pointRead = 1;
  const ways = [ourWay(place, pointRead, directory), ...peerWays];
  say('reading, each way in turn');
  const [read, ...peers] = await measureReads(ways, run, extent);
  if (!read) throw new Error('nothing was read');
  say('comparing the point with the disk as it was');
  await verify(place, pointRead, original, directory);
  const ratio = (peer: ReadFigures | undefined): number | null =>
    peer ? rounded(read.megabytesPerSecond / peer.megabytesPerSecond) : null;
  return {
    ...first,
    ...work,
    ...started,
    disk: { bytes: size, points: 3, pointRead },
    read,
    peers: peers.length === 0 ? 'absent' : peers,
    ratioToRaw: ratio(peers[0]),
    ratioToCompressed: ratio(peers[1]),
  };
}

/** For people. */
export function recoveryLines(result: RecoveryResult): string[] {
  const { firstBlock, manyPoints, read, peers, rebuild, bootSeconds } = result;
  const row = ({ name, megabytesPerSecond, randomRead: random }: ReadFigures): string =>
    `  ${name.padEnd(38)} ${String(megabytesPerSecond).padStart(6)} MB/s ${String(random.iops).padStart(7)} IOPS  p50 ${random.p50Microseconds} µs  p99 ${random.p99Microseconds} µs`;
  return [
    `command to first checked block, ${firstBlock.points} points of a disk of ${firstBlock.diskBytes / 1024 ** 4} TiB: ${result.firstBlockSeconds} s (the program alone starts in ${result.startSeconds} s)`,
    `the same with ${manyPoints.points} points: ${manyPoints.firstBlockSeconds} s`,
    `command to the first words of a machine that needs nothing but its firmware: ${bootSeconds === null ? 'not measured, no QEMU' : `${bootSeconds} s`}`,
    `index rebuilt from ${(rebuild.storedBytes / 1e9).toFixed(2)} GB of segments in ${rebuild.seconds} s, ${rebuild.gigabytesPerSecond} GB/s`,
    ...storeWorkLines(result),
    `reading a point of ${(result.disk.bytes / 1024 ** 2).toFixed(0)} MiB through NBD, and 4 KiB at random places, four at a time:`,
    ...[read, ...(peers === 'absent' ? [] : peers)].map(row),
    `  ours ÷ raw ${result.ratioToRaw ?? 'not measured'} (goal 0.3), ours ÷ compressed ${result.ratioToCompressed ?? 'not measured'} (goal 1.5)`,
  ];
}
