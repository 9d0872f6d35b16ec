/**
 * The quickstart: a live disk, replicated end to end through real processes, with the process server killed in the middle of a cycle,
 * then the target cut off for a while, and two recovery points, one of them cut meanwhile, compared byte by byte with an oracle that nobody in the
 * product made: the image as it was before, plus the writer's own log replayed up to the mark each cut noted. Then the agent's change log is deleted and the disk changed behind its back;
 * the point after the resync is compared with the disk itself.
 *
 * Exit code 0: identical. 1: not identical, or an export was refused. 2: it could not be run.
 */
import { Command } from 'commander';
import { rmSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../src/kit/clock.ts';
import { connectNbd } from '../src/nbd/client.ts';
import { firstDifference } from './demo/compare.ts';
import { firstPayload, firstSegment, flipBit } from './demo/damage.ts';
import { makeImage, requireSpace, type DemoImage } from './demo/image.ts';
import { mark } from './demo/boot-sector.ts';
import { cutOffTarget, type CutOffFigures } from './demo/cut-off.ts';
import { testFailover, type FailoverFigures } from './demo/failover.ts';
import { loseChangeLog, resyncFigures } from './demo/lost-log.ts';
import { commandOk, endChildren, tidemark } from './demo/process.ts';
import { Site } from './demo/site.ts';
import { failoverLine, printTable, type ComparedPoint, type Figures, type Resynced } from './demo/report.ts';
import { parseSize } from './demo/size.ts';
import { replay, Writer, type LoggedWrite } from './demo/writer.ts';

interface Options {
  readonly size: string;
  readonly image?: string;
  readonly keep?: string;
  readonly sabotage?: boolean;
  readonly json?: boolean;
}

interface ListedPoint {
  readonly point: number;
  readonly cutTimeMs: number;
  readonly provenMs: number | null;
  readonly disks: readonly { readonly root: string; readonly writes: number | null }[];
}

const machine = 'quickstart';
const disk = 'disk0';
const pointsWanted = 4;
/** What the disk says when it is started, until its change log is lost. */
const firstMark = 'quickstart, as it was replicated first';
const deadlineMs = 10 * 60_000;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function until<T>(what: string, ask: () => Promise<T | undefined>, everyMs: number): Promise<T> {
  const end = performance.now() + deadlineMs;
  while (performance.now() < end) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await systemClock.sleep(everyMs);
  }
  throw new Error(`${what} did not happen within ${deadlineMs / 1000} s`);
}

async function listPoints(site: Site): Promise<readonly ListedPoint[]> {
  const listed = await tidemark(['points', machine, '--data', site.targetData, '--json']);
  return listed.code === 0 ? (JSON.parse(listed.stdout) as { points: ListedPoint[] }).points : [];
}

/** Kills the process server once batches flow in the first cycle, starts it again. Returns the batches that were durable before. */
async function killMidCycle(site: Site): Promise<number> {
  const batches = (): Promise<number | undefined> => site.metric('agent', 'tidemark_agent_batches_durable_total');
  await until('the first batches', async () => ((await batches()) ?? 0) >= 8 || undefined, 10);
  const committed = (await site.metric('agent', 'tidemark_agent_points_committed_total')) ?? 0;
  const before = (await batches()) ?? 0;
  await site.kill('process-server');
  if (committed > 0) say('  (the first cycle was over already; the kill hit a later one)');
  say(`  killed the process server with SIGKILL after ${before} batches`);
  await systemClock.sleep(1000);
  await site.startProcessServer();
  say('  started it again');
  return before;
}

/** Makes what the disk must be after its first `writes` writes. */
async function makeOracle(base: string, to: string, log: readonly LoggedWrite[], writes: number): Promise<void> {
  await copyFile(base, to);
  const file = await open(to, 'r+');
  try {
    await replay(log, 0, writes, (data, offset) => file.write(data, 0, data.length, offset));
  } finally {
    await file.close();
  }
}

/** Flips one bit of a stored payload that every point relies on. */
async function sabotage(site: Site): Promise<void> {
  const segment = await firstSegment(site.targetData, machine);
  const offset = await firstPayload(segment);
  await flipBit(segment, offset, 0);
  say(`  sabotage: flipped one bit of ${path.basename(segment)} at ${offset}`);
}

interface Run {
  readonly directory: string;
  readonly site: Site;
  readonly image: DemoImage;
  readonly base: string;
  readonly writer: Writer;
}

/** Compares with what was written before the point's cut. */
async function compareWithLog(run: Run, point: ListedPoint): Promise<ComparedPoint> {
  const writes = point.disks[0]?.writes;
  if (writes === null || writes === undefined)
    throw new Error(`point ${point.point} does not note the writes before its cut`);
  const make = (to: string): Promise<void> => makeOracle(run.base, to, run.writer.log, writes);
  return comparePoint(run, point, make, `after ${writes} writes`);
}

async function comparePoint(
  { directory, site }: Run,
  point: ListedPoint,
  makeSource: (to: string) => Promise<void>,
  remark: string,
): Promise<ComparedPoint> {
  const oracle = path.join(directory, `source-${point.point}.raw`);
  const exported = path.join(directory, `point-${point.point}.raw`);
  await makeSource(oracle);
  const result = await tidemark([
    'export',
    machine,
    disk,
    '--data',
    site.targetData,
    '--point',
    String(point.point),
    '--to',
    exported,
    '--json',
  ]);
  let identical = false;
  if (result.code === 0) {
    const difference = await firstDifference(oracle, exported);
    identical = difference === null;
    say(
      `  point ${point.point}: ${identical ? 'identical' : `differs from byte ${String(difference)} on`} (${remark})`,
    );
  } else {
    say(`  point ${point.point}: export refused with exit code ${result.code}: ${result.stderr.trim()}`);
  }
  return {
    id: point.point,
    cutTime: new Date(point.cutTimeMs).toISOString(),
    identical,
    proven: point.provenMs !== null,
    root: point.disks[0]?.root ?? '',
  };
}

/** Cuts the target off under the writer; the points up to the last one that went through the spool, which is what is compared. */
async function replicateThroughSpool(
  site: Site,
  proven: () => Promise<readonly ListedPoint[]>,
): Promise<{ points: readonly ListedPoint[]; cutOff: CutOffFigures }> {
  say('cutting the target off');
  const cutOff = await cutOffTarget(site, say);
  const wentThrough = ({ cutTimeMs }: ListedPoint): boolean => cutTimeMs >= cutOff.fromMs && cutTimeMs <= cutOff.toMs;
  const points = await until(
    'a proven point of that time',
    async () => {
      const listed = await proven();
      const last = listed.findLastIndex(wentThrough);
      return last < 0 ? undefined : listed.slice(0, last + 1);
    },
    500,
  );
  return { points, cutOff };
}

/** Replicates while the writer writes, with the kill in the middle, until there are enough proven points. */
async function replicate(
  run: Run,
): Promise<{ points: readonly ListedPoint[]; figures: Figures; cutOff: CutOffFigures }> {
  const { site, image, writer } = run;
  const started = performance.now();
  await site.startAgent();
  const client = await connectNbd({ unixPath: site.socketOf(disk) }, { exportName: disk, clock: systemClock });
  writer.start(client, { from: image.writableFrom, size: image.writableTo, pauseMs: 4 });
  say('  the writer writes, the first cycle runs');
  const batchesBefore = await killMidCycle(site);
  await until('the first point', async () => ((await listPoints(site)).length > 0 ? true : undefined), 200);
  const seconds = (performance.now() - started) / 1000;
  say(`  first point after ${seconds.toFixed(1)} s`);
  const proven = async (): Promise<readonly ListedPoint[]> =>
    (await listPoints(site)).filter((point) => point.provenMs !== null);
  const enough = async (): Promise<true | undefined> => (await proven()).length >= pointsWanted || undefined;
  await until(`${pointsWanted} proven points`, enough, 500);
  const { points, cutOff } = await replicateThroughSpool(site, proven);
  await writer.stop();
  await client.close();
  const read = async (role: 'agent' | 'target', series: string): Promise<number> =>
    (await site.metric(role, series)) ?? 0;
  const bytesReplicated = await read('target', 'tidemark_target_plain_bytes_total');
  const bytesOnWire = await read('target', 'tidemark_target_sealed_received_bytes_total');
  const perGB = async (role: 'agent' | 'process-server' | 'target'): Promise<number> =>
    rounded((await site.cpuSeconds(role)) / (bytesReplicated / 1e9), 2);
  const kill = {
    batchesBefore,
    batchesAfter: (await read('agent', 'tidemark_agent_batches_durable_total')) - batchesBefore,
    bytesResent: await read('agent', 'tidemark_agent_payload_resent_bytes_total'),
  };
  const cpuSecondsPerGB = {
    agent: await perGB('agent'),
    processServer: await perGB('process-server'),
    target: await perGB('target'),
  };
  const compressionRatio = rounded(bytesReplicated / bytesOnWire, 2);
  const figures = {
    bytesReplicated,
    bytesOnWire,
    compressionRatio,
    seconds: rounded(seconds, 2),
    mbps: rounded(bytesReplicated / 1e6 / seconds, 1),
    cpuSecondsPerGB,
    kill,
  };
  return { points, figures, cutOff };
}

interface Resync extends Resynced {
  readonly point: ListedPoint;
}

/** Deletes the change log, changes the disk, and waits until the point after the resync is proven. */
async function resync({ site, image }: Run): Promise<Resync> {
  // What was written last is in a point of its own first, so that only what happens now has to be found.
  const quietMs = systemClock.wallMs();
  const settled = async (): Promise<true | undefined> =>
    (await listPoints(site)).some(({ cutTimeMs }) => cutTimeMs > quietMs) || undefined;
  await until('a point after the last write', settled, 100);
  const started = performance.now();
  const lost = await loseChangeLog(site, disk, image, 'quickstart, after the resync');
  say(`  deleted the change log and changed ${lost.blocksChanged} blocks while the agent was away`);
  const next = async (): Promise<ListedPoint | undefined> =>
    (await listPoints(site)).find(({ cutTimeMs }) => cutTimeMs >= lost.changedMs);
  await until('the point after the resync', next, 100);
  const seconds = rounded((performance.now() - started) / 1000, 2);
  const figures = await resyncFigures(site, lost);
  say(
    `  resync: ${figures.blocksHashed} blocks hashed and compared with the replica’s leaves, ${figures.blocksSent} sent`,
  );
  const proven = async (): Promise<ListedPoint | undefined> => {
    const point = await next();
    return point?.provenMs === null ? undefined : point;
  };
  return { ...figures, seconds, point: await until('its proof', proven, 200) };
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

/** A test failover from a point before the resync, which says what the disk was marked with then. Null: refused, as damage should be. */
async function startOlderPoint({ site, directory, image }: Run, point: number): Promise<FailoverFigures | null> {
  say(`test failover from point ${point}`);
  try {
    const source = path.join(directory, `source-${point}.raw`);
    const figures = await testFailover(site, point, source, image.starts ? firstMark : null);
    say(`  ${failoverLine(figures)}`);
    return figures;
  } catch (error) {
    say(`  ${error instanceof Error ? error.message : String(error)}`);
    return null;
  }
}

async function keepFiles(run: Run, keep: string): Promise<void> {
  await mkdir(keep, { recursive: true });
  for (const name of (await readdir(run.directory)).filter((each) => /^(source|point)-\d+\.raw$/.test(each))) {
    await copyFile(path.join(run.directory, name), path.join(keep, name));
  }
}

/** Everything but the agent; the machine is protected, with what is needed to start it elsewhere. */
async function startSite(site: Site): Promise<void> {
  await site.enrollAll();
  const what = ['--disk', disk, '--cpus', '1', '--memory', '64M'];
  await commandOk(tidemark, ['protect', machine, ...what, ...site.operator]);
  await site.startTarget();
  await site.startProcessServer();
}

async function main(options: Options): Promise<number> {
  const size = options.image === undefined ? parseSize(options.size, 512) : (await stat(options.image)).size;
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-quickstart-'));
  const imagePath = path.join(directory, 'disk.raw');
  const site = new Site({
    directory,
    machine,
    disks: [{ name: disk, image: imagePath }],
    intervalSeconds: 2,
    compression: 'lz4',
    reporting: true,
  });
  const interrupted = (): void => {
    endChildren();
    rmSync(directory, { recursive: true, force: true });
    process.exit(2);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  try {
    await requireSpace(directory, size * 7);
    say(`making a disk of ${Math.round(size / 1024 ** 2)} MiB`);
    const image = await makeImage(imagePath, size, options.image ?? null, directory);
    if (image.starts) await mark(image.path, size, firstMark);
    const base = path.join(directory, 'base.raw');
    await copyFile(imagePath, base);
    const run: Run = { directory, site, image, base, writer: new Writer() };
    say(`  content: ${image.content}`);
    say('starting control, target, process server and agent');
    await startSite(site);
    const { points, figures, cutOff } = await replicate(run);
    say(
      `  ${points.length} points, ${run.writer.log.length} writes, longest gap between writes ${run.writer.longestGapMs.toFixed(0)} ms`,
    );
    const [first, last] = [points[0], points.at(-1)];
    if (!first || !last || first.point === last.point) throw new Error('there are no two different points');
    const resynced = await resync(run);
    if (options.sabotage === true) await sabotage(site);
    say('exporting three points and comparing them with the oracle');
    const compared = [await compareWithLog(run, first), await compareWithLog(run, last)];
    compared.push(await comparePoint(run, resynced.point, (to) => copyFile(imagePath, to), 'after the resync'));
    const failover = await startOlderPoint(run, last.point);
    const identical = compared.every((point) => point.identical) && failover?.identical === true;
    if (options.keep !== undefined) await keepFiles(run, options.keep);
    if (options.json === true) {
      process.stdout.write(
        `${JSON.stringify({ identical, points: compared, ...figures, cutOff, resync: { ...resynced, point: resynced.point.point }, failover, keep: options.keep ?? null })}\n`,
      );
    } else {
      printTable(compared, { ...figures, cutOff }, resynced, failover);
    }
    return identical ? 0 : 1;
  } catch (error) {
    for (const [name, role] of site.roles) if (role.isOver) say(`${name} is not running any more`);
    await showLogs(directory);
    throw error;
  } finally {
    await site.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

async function showLogs(directory: string): Promise<void> {
  for (const name of (await readdir(directory)).filter((each) => each.endsWith('.log'))) {
    const text = await tidemarkLogTail(path.join(directory, name));
    if (text !== '') say(`--- end of ${name}\n${text}`);
  }
}

async function tidemarkLogTail(file: string): Promise<string> {
  const handle = await open(file, 'r');
  try {
    return (await handle.readFile('utf8')).split('\n').slice(-12).join('\n');
  } finally {
    await handle.close();
  }
}

const program = new Command('quickstart')
  .description('replicate a live disk end to end and compare recovery points with what was written')
  .option('--size <size>', 'size of the disk', '512M')
  .option('--image <file>', 'replicate a copy of this image instead')
  .option('--keep <dir>', 'keep source-<point>.raw (oracle) and point-<point>.raw (export) there')
  .option('--sabotage', 'flip one stored byte before the export; must end with exit code 1')
  .option('--json', 'print one JSON object on stdout');

try {
  process.exitCode = await main(program.parse().opts<Options>());
} catch (error) {
  say(`quickstart: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
