/**
 * What small writes to a replicated disk cost: 4 KiB at random places, incompressible, each in a block of its own, as on a disk far larger than what is
 * written: when every block had its turn and is durable, another round begins. And 16 KiB of real files one after another, those close together in any
 * order. Written as fast as the disk takes them, while the agent makes a point every second, and one at once behind the last write of a round.
 *
 * Bytes on the wire are all bytes of a connection in the direction of the data, TLS included, until a point has all writes; no page is written twice,
 * so the bytes dirtied are the bytes written. CPU is what the operating system counts for all threads of a role until that point is proven; the
 * agent's includes that it takes the writes.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { requireSpace } from '../demo/image.ts';
import { rounded } from './figures.ts';
import { blockBytes, makeContent, makeRealContent } from './content.ts';
import { numbersFrom, shuffled, writeAll, type PlannedWrite } from './dirty-writer.ts';
import { RunningSite } from './running-site.ts';
import type { Run } from './section.ts';

interface RoleCpu {
  /** Taking the writes included. */
  readonly agent: number;
  readonly processServer: number;
  /** Proof included. */
  readonly target: number;
}

export interface SmallWritesRow {
  readonly name: string;
  readonly writes: number;
  readonly bytesDirtied: number;
  /** What the agent made of them: changes of one block since the cut before. */
  readonly records: number;
  /** Points that took them. */
  readonly points: number;
  /** Bytes on the wire ÷ bytes dirtied. */
  readonly wireRatio: { readonly agentToProcessServer: number; readonly processServerToTarget: number };
  /** Of `agentToProcessServer`; null: there is none. */
  readonly wireRatioGoal: number | null;
  /** From the first write of a round to the last one's answer, all rounds. */
  readonly writesPerSecond: number;
  /** From the first write of a round to the commit of the point with the last one, all rounds. */
  readonly recordsPerSecond: number;
  readonly cpuSecondsPerMillionRecords: RoleCpu & { readonly machine: number };
}

const disk = 'disk0';
const MiB = 1024 ** 2;
const pageBytes = 4096;
const pagesPerBlock = blockBytes / pageBytes;
const depth = 32;
const contentBytes = 16 * MiB;

interface Pattern {
  readonly name: string;
  /** Each begins when the one before is durable. */
  readonly rounds: readonly (readonly PlannedWrite[])[];
  readonly content: Buffer;
  readonly wireRatioGoal: number | null;
}

/** One page of every block, in another order and another page each round. */
function randomPages(size: number, rounds: number, seed: number): PlannedWrite[][] {
  const below = numbersFrom(seed);
  const blocks = size / blockBytes;
  const firsts = Array.from({ length: blocks }, () => below(pagesPerBlock));
  return Array.from({ length: rounds }, (_, round) =>
    shuffled(blocks, below).map((block) => {
      const page = ((firsts[block] ?? 0) + round) % pagesPerBlock;
      return { offset: block * blockBytes + page * pageBytes, length: pageBytes };
    }),
  );
}

/** The disk in pieces of 16 KiB, every eight of them in any order. */
function nearSequential(bytes: number, seed: number): PlannedWrite[] {
  const below = numbersFrom(seed);
  const [length, window] = [16_384, 8];
  return Array.from({ length: bytes / length / window }, (_, first) =>
    shuffled(window, below).map((index) => ({ offset: (first * window + index) * length, length })),
  ).flat();
}

interface Counted {
  readonly agentToProcessServer: number;
  readonly processServerToTarget: number;
  readonly records: number;
  readonly points: number;
}

async function counted({ site }: RunningSite): Promise<Counted> {
  const of = async (series: string): Promise<number> =>
    (await site.metric('process-server', `tidemark_process_server_${series}`)) ?? 0;
  const bytes = (role: string, direction: string): Promise<number> =>
    of(`connection_bytes_total{machine="bench",role="${role}",direction="${direction}"}`);
  return {
    agentToProcessServer: await bytes('agent', 'in'),
    processServerToTarget: await bytes('target', 'out'),
    records: await of('records_total'),
    points: await of('points_committed_total'),
  };
}

async function cpuOf({ site }: RunningSite): Promise<RoleCpu> {
  const of = (role: 'agent' | 'process-server' | 'target'): Promise<number> => site.cpuSeconds(role);
  const [agent, processServer, target] = await Promise.all([of('agent'), of('process-server'), of('target')]);
  return { agent, processServer, target };
}

interface Rounds {
  /** Made by this client so far. */
  readonly writes: number;
  readonly writeSeconds: number;
  readonly durableSeconds: number;
}

async function writeRounds(running: RunningSite, pattern: Pattern, writesBefore: number): Promise<Rounds> {
  const [client] = running.clients;
  if (!client) throw new Error('there is no disk to write to');
  let [writes, writeSeconds, durableSeconds] = [writesBefore, 0, 0];
  for (const round of pattern.rounds) {
    const startedMs = Date.now();
    await writeAll(client, round, pattern.content, depth);
    writeSeconds += (Date.now() - startedMs) / 1000;
    writes += round.length;
    running.pointNow();
    durableSeconds += ((await running.durable([writes])).atMs - startedMs) / 1000;
  }
  return { writes, writeSeconds, durableSeconds };
}

interface Measured {
  readonly row: SmallWritesRow;
  readonly writes: number;
}

async function measurePattern(running: RunningSite, pattern: Pattern, writesBefore: number): Promise<Measured> {
  await running.calm();
  const [before, cpuBefore] = [await counted(running), await cpuOf(running)];
  const { writes, writeSeconds, durableSeconds } = await writeRounds(running, pattern, writesBefore);
  const after = await counted(running);
  await running.calm();
  const cpuAfter = await cpuOf(running);
  const bytesDirtied = pattern.rounds.flat().reduce((sum, { length }) => sum + length, 0);
  const records = after.records - before.records;
  const perMillion = (role: keyof RoleCpu): number => rounded(((cpuAfter[role] - cpuBefore[role]) / records) * 1e6, 1);
  const cpu = { agent: perMillion('agent'), processServer: perMillion('processServer'), target: perMillion('target') };
  const ratioOf = (hop: 'agentToProcessServer' | 'processServerToTarget'): number =>
    rounded((after[hop] - before[hop]) / bytesDirtied, 4);
  const row = {
    name: pattern.name,
    writes: writes - writesBefore,
    bytesDirtied,
    records,
    points: after.points - before.points,
    wireRatio: {
      agentToProcessServer: ratioOf('agentToProcessServer'),
      processServerToTarget: ratioOf('processServerToTarget'),
    },
    wireRatioGoal: pattern.wireRatioGoal,
    writesPerSecond: Math.round((writes - writesBefore) / writeSeconds),
    recordsPerSecond: Math.round(records / durableSeconds),
    cpuSecondsPerMillionRecords: { ...cpu, machine: rounded(cpu.agent + cpu.processServer + cpu.target, 1) },
  };
  return { row, writes };
}

/** @throws Error when something could not be measured. */
export async function measureSmallWrites({ directory, size, seed, quick, say }: Run): Promise<SmallWritesRow[]> {
  const bytes = Math.min(size, (quick ? 64 : 512) * MiB);
  await requireSpace(directory, bytes * 5);
  const image = path.join(directory, `${disk}.raw`);
  await makeContent(image, bytes, seed);
  const real = path.join(directory, 'real');
  await makeRealContent(real, contentBytes);
  const patterns: readonly Pattern[] = [
    {
      name: '4 KiB random, incompressible',
      rounds: randomPages(bytes, quick ? 1 : 4, seed),
      content: randomBytes(contentBytes),
      wireRatioGoal: 1.05,
    },
    {
      name: '16 KiB near-sequential',
      rounds: [nearSequential(bytes, seed)],
      content: await readFile(real),
      wireRatioGoal: null,
    },
  ];
  say(`small writes: replicating a disk of ${Math.round(bytes / MiB)} MiB`);
  const running = await RunningSite.start(directory, [{ name: disk, image }]);
  const rows: SmallWritesRow[] = [];
  try {
    let writesBefore = 0;
    for (const pattern of patterns) {
      say(`  ${pattern.name}`);
      const { row, writes } = await measurePattern(running, pattern, writesBefore);
      rows.push(row);
      writesBefore = writes;
    }
  } finally {
    await running.stop();
  }
  return rows;
}

/** For people. */
export function smallWritesLines(rows: readonly SmallWritesRow[]): string[] {
  const line = (row: SmallWritesRow): string[] => {
    const { agentToProcessServer, processServerToTarget } = row.wireRatio;
    const { agent, processServer, target, machine } = row.cpuSecondsPerMillionRecords;
    const goal = row.wireRatioGoal === null ? '' : ` (goal ${row.wireRatioGoal})`;
    return [
      `  ${row.name}: ${row.writes} writes, ${row.records} records in ${row.points} points`,
      `    on the wire ÷ dirtied ${agentToProcessServer}${goal} to the process server, ${processServerToTarget} to the target`,
      `    ${row.writesPerSecond} writes/s taken, ${row.recordsPerSecond} records/s made durable`,
      `    CPU s per million records: agent ${agent} + process server ${processServer} + target ${target} = ${machine}`,
    ];
  };
  return ['small writes to a replicated disk, a point every second:', ...rows.flatMap(line)];
}
