/**
 * Resynchronisation of a disk whose agent has lost its leaf file, so that the source is read from end to end and compared with the replica.
 * Measured for a disk that is identical, and for one of which a share of the blocks was changed behind everybody's back; beside rsync doing the same with a
 * plain copy of the same content, in the same run.
 *
 * Ours counts from the agent's session to the committed point, encryption and `fdatasync` included, and apart from that with the start of its process;
 * CPU of agent (its start included), process server and target together. Every measurement begins with its files in the page cache. The last point is
 * exported and compared with the disk.
 */
import { readFile, rm } from 'node:fs/promises';
import * as path from 'node:path';
import { z } from 'zod';
import { firstDifference } from '../demo/compare.ts';
import { requireSpace } from '../demo/image.ts';
import { commandOk, tidemark } from '../demo/process.ts';
import { Site } from '../demo/site.ts';
import { blockBytes, changeBlocks, chooseBlocks, copyBlocks, makeContent, warm } from './content.ts';
import { rounded } from './figures.ts';
import { operator } from './operator.ts';
import { rsyncVersion, rsyncWays, runRsync, type PeerRun } from './rsync.ts';
import { until, waitMsMax } from './until.ts';

export interface ResyncOptions {
  readonly directory: string;
  /** Of the disk, bytes. */
  readonly size: number;
  readonly seed: number;
  readonly say: (text: string) => void;
}

interface Peer {
  readonly name: string;
  readonly changed: PeerRun;
  readonly identical: PeerRun;
}

export interface OurRun extends PeerRun {
  /** Both ways, TLS included; `bytesOnWire` is the larger one. */
  readonly hops: { readonly agentToProcessServer: number; readonly processServerToTarget: number };
  readonly cpu: { readonly agent: number; readonly processServer: number; readonly target: number };
  readonly blocksHashed: number;
  readonly checksumsCompared: number;
  readonly payloadBytesSent: number;
  /** Seconds the agent's sender spent waiting for the disk, hashing, handing batches over, and for the answer to POINT; they overlap. */
  readonly stageSeconds: Readonly<Record<string, number>>;
  /** What happened when, by the agent's log: seconds since its process was started. */
  readonly phases: Readonly<Record<string, number>>;
  /** From the start of the agent's process, which runs for months. */
  readonly secondsWithStart: number;
}

export interface ResyncResult extends OurRun {
  readonly disk: { readonly bytes: number; readonly blocksChanged: number; readonly seed: number };
  /** Differing blocks × block size × 1.05 + 0.1 % of the disk. */
  readonly bytesOnWireGoal: number;
  readonly identical: OurRun;
  readonly peerVersion: string | null;
  readonly peers: readonly Peer[] | 'absent';
  /** Best peer's seconds ÷ ours; null without a peer. */
  readonly ratio: number | null;
  readonly identicalRatio: number | null;
}

const machine = 'bench';
const disk = 'disk0';
const share = 0.01;
const provenPollMs = 100;
const roles = ['agent', 'process-server', 'target'] as const;

interface Listed {
  readonly points: readonly { readonly point: number; readonly provenMs: number | null }[];
}

/** The newest point, once it is proven: before, the target still reads and hashes in the background. */
async function untilProven(site: Site, points: number): Promise<number> {
  let newest = 0;
  await until(
    `proof of ${points} points`,
    async () => {
      const text = await commandOk(operator, ['points', machine, '--data', site.targetData, '--json']);
      const listed = (JSON.parse(text) as Listed).points;
      newest = listed.at(-1)?.point ?? 0;
      return listed.length >= points && listed.every(({ provenMs }) => provenMs !== null);
    },
    provenPollMs,
  );
  return newest;
}

async function committedOf(site: Site): Promise<number> {
  return (await site.metric('agent', 'tidemark_agent_points_committed_total')) ?? 0;
}

/** The first point; then the agent is stopped, the others run on. */
async function replicate(site: Site): Promise<void> {
  await site.enrollAll();
  await site.startTarget();
  await site.startProcessServer();
  await site.startAgent();
  await until('the first point', async () => (await committedOf(site)) > 0, 100);
  await untilProven(site, 1);
  await site.role('agent').stop();
}

/** Bytes on both connections of the process server, since it runs. */
async function hopBytes(site: Site): Promise<OurRun['hops']> {
  const of = async (role: string): Promise<number> => {
    const labelled = (direction: string): string =>
      `tidemark_process_server_connection_bytes_total{machine="${machine}",role="${role}",direction="${direction}"}`;
    const values = await Promise.all(
      ['in', 'out'].map((direction) => site.metric('process-server', labelled(direction))),
    );
    return values.reduce<number>((sum, value) => sum + (value ?? 0), 0);
  };
  return { agentToProcessServer: await of('agent'), processServerToTarget: await of('target') };
}

/** Deletes what the agent knows, starts it, and waits for its first point. It is left running. */
async function measureOurs(site: Site, image: string): Promise<OurRun> {
  await rm(path.join(site.dir('agent'), `${disk}.leaves`));
  await warm(image);
  const hopsBefore = await hopBytes(site);
  const cpuBefore = await Promise.all([site.cpuSeconds('process-server'), site.cpuSeconds('target')]);
  const comparedBefore = (await site.metric('process-server', 'tidemark_process_server_checksums_compared_total')) ?? 0;
  const started = performance.now();
  const startedMs = Date.now();
  const agent = await site.startAgent();
  await until('the point after the resync', async () => (await committedOf(site)) > 0, 20);
  const secondsWithStart = (performance.now() - started) / 1000;
  const hopsAfter = await hopBytes(site);
  const cpu = {
    agent: rounded(await agent.cpuSeconds({ withStart: true })),
    processServer: rounded((await site.cpuSeconds('process-server')) - cpuBefore[0]),
    target: rounded((await site.cpuSeconds('target')) - cpuBefore[1]),
  };
  const hops = {
    agentToProcessServer: hopsAfter.agentToProcessServer - hopsBefore.agentToProcessServer,
    processServerToTarget: hopsAfter.processServerToTarget - hopsBefore.processServerToTarget,
  };
  const ofAgent = async (series: string): Promise<number> =>
    (await site.metric('agent', `tidemark_agent_${series}`)) ?? 0;
  const stageSeconds: Record<string, number> = {};
  for (const stage of ['read', 'hash', 'send', 'commit'])
    stageSeconds[stage] = rounded(await ofAgent(`stage_seconds_total{stage="${stage}"}`), 3);
  const phases = await phasesOf(site.dir('agent.log'), startedMs);
  const compared = (await site.metric('process-server', 'tidemark_process_server_checksums_compared_total')) ?? 0;
  return {
    seconds: rounded(between(phases, 'session open', 'point committed')),
    secondsWithStart: rounded(secondsWithStart),
    bytesOnWire: Math.max(hops.agentToProcessServer, hops.processServerToTarget),
    cpuSeconds: rounded(cpu.agent + cpu.processServer + cpu.target),
    hops,
    cpu,
    blocksHashed: await ofAgent('blocks_hashed_total'),
    checksumsCompared: compared - comparedBefore,
    payloadBytesSent: await ofAgent('payload_sent_bytes_total'),
    stageSeconds,
    phases,
  };
}

const logLine = z.object({ time: z.number(), message: z.string() });

/** Every line the agent logged since. */
async function phasesOf(log: string, sinceMs: number): Promise<Record<string, number>> {
  const phases: Record<string, number> = {};
  for (const line of (await readFile(log, 'utf8')).split('\n').filter((text) => text.startsWith('{'))) {
    const { time, message } = logLine.parse(JSON.parse(line));
    if (time >= sinceMs) phases[message] = rounded((time - sinceMs) / 1000, 3);
  }
  return phases;
}

/** Seconds from one phase to another. */
function between(phases: Readonly<Record<string, number>>, from: string, to: string): number {
  const [began, ended] = [phases[from], phases[to]];
  if (began === undefined || ended === undefined) throw new Error(`the agent logged no "${from}" or no "${to}"`);
  return ended - began;
}

function roundedRun(run: PeerRun): PeerRun {
  return { ...run, seconds: rounded(run.seconds), cpuSeconds: rounded(run.cpuSeconds) };
}

/** Both ways of the peer, into the copy `to` of what `from` was; `again` makes it that copy once more. */
async function measurePeers(from: string, to: string, again: () => Promise<void>): Promise<PeerRun[]> {
  const runs: PeerRun[] = [];
  for (const { args } of rsyncWays) {
    await again();
    await warm(from, to);
    runs.push(roundedRun(await runRsync(args, from, to)));
  }
  return runs;
}

/** Best of the peers ÷ ours. */
function ratioOf(peers: readonly PeerRun[], ours: PeerRun): number | null {
  if (peers.length === 0) return null;
  return rounded(Math.min(...peers.map(({ seconds }) => seconds)) / ours.seconds);
}

async function verify(site: Site, point: number, image: string): Promise<void> {
  const exported = site.dir('exported.raw');
  const words = ['export', machine, disk, '--data', site.targetData, '--point', String(point), '--to', exported];
  await commandOk(tidemark, words, { timeoutMs: waitMsMax });
  const difference = await firstDifference(image, exported);
  await rm(exported);
  if (difference !== null)
    throw new Error(`the point after the resync differs from the disk from byte ${difference} on`);
}

/** @throws Error when something could not be measured, or a result was not identical. */
export async function measureResync({ directory, size, seed, say }: ResyncOptions): Promise<ResyncResult> {
  await requireSpace(directory, size * 5);
  const image = path.join(directory, 'disk.raw');
  const copy = path.join(directory, 'copy.raw');
  const version = await rsyncVersion();
  say(`making a disk of ${Math.round(size / 1024 ** 2)} MiB`);
  await makeContent(image, size, seed);
  const disks = [{ name: disk, image }];
  const site = new Site({ directory, machine, disks, intervalSeconds: 3600, compression: 'lz4', run: operator });
  try {
    say('replicating it for the first time');
    await replicate(site);
    say('resync of the identical disk');
    const identical = await measureOurs(site, image);
    await untilProven(site, 2);
    await site.role('agent').stop();
    if (version === null) say('  rsync is not installed: no peer is measured');
    else await makeContent(copy, size, seed);
    const nothing = (): Promise<void> => Promise.resolve();
    const identicalPeers = version === null ? [] : await measurePeers(image, copy, nothing);

    const blocks = chooseBlocks(size, share, seed);
    say(`resync after ${blocks.length} blocks were changed`);
    const original = path.join(directory, 'original.raw');
    await copyBlocks(image, original, blocks);
    await changeBlocks(image, blocks, seed);
    const ours = await measureOurs(site, image);
    const newest = await untilProven(site, 3);
    await site.role('agent').stop();
    const changedPeers =
      version === null ? [] : await measurePeers(image, copy, () => copyBlocks(original, copy, blocks));
    await rm(copy, { force: true });
    say('comparing the newest point with the disk');
    await verify(site, newest, image);
    const peers = rsyncWays.flatMap(({ name }, index) => {
      const [changed, same] = [changedPeers[index], identicalPeers[index]];
      return changed && same ? [{ name, changed, identical: same }] : [];
    });
    return {
      ...ours,
      disk: { bytes: size, blocksChanged: blocks.length, seed },
      bytesOnWireGoal: Math.round(blocks.length * blockBytes * 1.05 + size * 0.001),
      identical,
      peerVersion: version,
      peers: version === null ? 'absent' : peers,
      ratio: ratioOf(changedPeers, ours),
      identicalRatio: ratioOf(identicalPeers, identical),
    };
  } catch (error) {
    for (const role of roles) if (site.roles.get(role)?.isOver === true) say(`${role} is not running any more`);
    throw error;
  } finally {
    await site.stop();
  }
}

/** For people. */
export function resyncLines(result: ResyncResult): string[] {
  const row = (what: string, run: PeerRun): string =>
    `${what.padEnd(40)} ${run.seconds.toFixed(2).padStart(8)} s ${(run.bytesOnWire / 1e6).toFixed(2).padStart(9)} MB ${run.cpuSeconds.toFixed(2).padStart(8)} CPU s`;
  const { peers, disk: facts } = result;
  const listed = peers === 'absent' ? [] : peers;
  const ratio = (value: number | null): string =>
    value === null ? 'no peer was measured' : `best peer ÷ ours ${value}`;
  return [
    `resync of ${(facts.bytes / 1024 ** 2).toFixed(0)} MiB, ${facts.blocksChanged} blocks changed: ${ratio(result.ratio)}`,
    row('  tidemark', result),
    ...listed.map(({ name, changed }) => row(`  ${name}`, changed)),
    `  on the wire ${result.hops.agentToProcessServer} and ${result.hops.processServerToTarget} bytes, goal ${result.bytesOnWireGoal}`,
    `identical disk: ${ratio(result.identicalRatio)}`,
    row('  tidemark', result.identical),
    ...listed.map(({ name, identical }) => row(`  ${name}`, identical)),
  ];
}
