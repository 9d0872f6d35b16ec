/**
 * Many agents in one process, so that a process server can be shown many authenticated machines by a computer that has no room for as many programs.
 * Each is the product's own agent, with a certificate, a connection, a change log and a disk of its own; what it leaves out is its metrics and the
 * server for writers, as nobody writes.
 *
 * A program of its own, started as `node agent-group.js … PLAN --json`. It says that it runs when every agent has a session and its disk is open; with
 * SIGCONT all begin to replicate at once. So what sessions cost and what replication costs can be told apart. SIGTERM ends it.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Agent } from '../../src/agent/agent.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { systemRandom as random } from '../../src/kit/random.ts';
import { limits } from '../../src/limits.ts';
import { createLogger } from '../../src/observe/logger.ts';
import { posixFiles as files } from '../../src/posix/files.ts';
import { parseAddress } from '../../src/transport/address.ts';
import { connect } from '../../src/transport/client.ts';
import { checkCredentials } from '../../src/transport/credentials.ts';
import { until } from './until.ts';

export interface PlannedAgent {
  readonly machine: string;
  readonly image: string;
  /** For its state. */
  readonly directory: string;
  readonly credentials: { readonly keyPem: string; readonly certPem: string; readonly caPem: string };
}

export interface GroupPlan {
  /** `host:port` */
  readonly processServer: string;
  readonly agents: readonly PlannedAgent[];
}

/** This program. */
export const agentGroupPath = fileURLToPath(import.meta.url);

const disk = 'disk0';
/** Longer than any measurement: one point per agent. */
const intervalMs = 3600_000;

interface Started {
  readonly agent: Agent;
  readonly stop: () => Promise<void>;
}

async function start(plan: GroupPlan, planned: PlannedAgent, released: () => boolean): Promise<Started> {
  const { machine, image, directory } = planned;
  const { host, port } = parseAddress(plan.processServer, 0);
  const credentials = checkCredentials(planned.credentials, clock.wallMs());
  await files.makeDirectory(directory);
  const of = { files, clock, random, image, name: disk, owner: `${machine}/${disk}`, hadLog: false };
  const { blockBytesDefault: blockSize } = limits.disk;
  const capture = await openNbdCapture({ ...of, blockSize, stateDirectory: directory });
  const replica = await ReplicaDisk.open({ capture, files, directory, state: null });
  const agent = new Agent({
    machine,
    version: 'bench',
    disks: [replica],
    cutAll: makeCutAll(clock),
    connect: (signal) => connect({ host, port, credentials, expectRole: 'process-server', clock, signal }),
    intervalMs: () => intervalMs,
    compression: () => 'lz4',
    hold: () => (released() ? null : 'not released yet'),
    clock,
    random,
    logger: createLogger({ level: 'info', clock, fields: { machine } }),
  });
  const loop = agent.run();
  const stop = async (): Promise<void> => {
    agent.stop();
    await loop;
    await replica.close();
  };
  return { agent, stop };
}

/** Whether it has its session and waits. @throws Error when it will never have one. */
function isReady(agent: Agent): boolean {
  const { machine, state, reason } = agent.report();
  if (state === 'critical') throw new Error(`${machine}: ${reason}`);
  return state === 'paused';
}

async function main(planPath: string): Promise<void> {
  const plan = JSON.parse(await readFile(planPath, 'utf8')) as GroupPlan;
  let released = false;
  const started = await Promise.all(plan.agents.map((each) => start(plan, each, () => released)));
  process.once('SIGCONT', () => {
    released = true;
    for (const { agent } of started) agent.requestCycle();
  });
  process.once('SIGTERM', () => void Promise.all(started.map(({ stop }) => stop())).then(() => process.exit(0)));
  await until('a session of every agent', () => started.every(({ agent }) => isReady(agent)));
  process.stdout.write(`${JSON.stringify({ reachable: [] })}\n`);
}

if (process.argv[1] === agentGroupPath) await main(process.argv.at(-2) ?? '');
