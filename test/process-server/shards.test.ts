/** `process-server --shards 2` as it runs: a keeper and two processes on one port, agents and a target at their ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { connect } from '../../src/transport/client.ts';
import type { Connection } from '../../src/transport/connection.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { frameType } from '../../src/wire/frame.ts';
import { makeSite, startServer, type TestSite } from '../transport/site.ts';
import { FakeAgent, FakeTarget } from './fakes.ts';

const program = path.join(import.meta.dirname, '../../src/main.ts');
const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Line {
  readonly message: string;
  readonly shard?: number;
  readonly pid?: number;
  readonly machine?: string;
}

interface Running {
  readonly child: ChildProcess;
  readonly lines: Line[];
  readonly reachable: readonly { readonly what: string; readonly where: string }[];
  readonly port: number;
  readonly exit: Promise<number | null>;
  /** Resolves with the newest line that `wanted` takes, when there is one from the `from`th on. */
  line(wanted: (line: Line) => boolean, from?: number): Promise<Line>;
}

function keep(directory: string, { keyPem, certPem, caPem }: Credentials): string {
  mkdirSync(directory, { recursive: true });
  writeFileSync(path.join(directory, 'key.pem'), keyPem, { mode: 0o600 });
  writeFileSync(path.join(directory, 'cert.pem'), certPem);
  writeFileSync(path.join(directory, 'ca.pem'), caPem);
  return directory;
}

async function until<T>(what: string, look: () => T | undefined | false): Promise<T> {
  for (let tries = 0; tries < 1500; tries += 1) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    await systemClock.sleep(20);
  }
  throw new Error(`waited in vain for ${what}`);
}

async function start(site: TestSite, targetPort: number, more: readonly string[] = []): Promise<Running> {
  const credentials = keep(path.join(site.directory, 'ps'), await site.credentials('process-server', 'ps1'));
  const flags = ['--listen', '127.0.0.1:0', '--target', `127.0.0.1:${targetPort}`, '--metrics', '127.0.0.1:0'];
  const places = ['--credentials', credentials, '--data', path.join(site.directory, 'data')];
  const words = ['process-server', '--shards', '2', '--workers', '2', ...flags, ...places, '--json', ...more];
  // Of an earlier start with more of them.
  mkdirSync(path.join(site.directory, 'data', 'spool', '+shard-3'), { recursive: true });
  const child = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'pipe', 'pipe'] });
  ends.push(() => void child.kill('SIGKILL'));
  const exit = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const lines: Line[] = [];
  const other: string[] = [];
  createInterface(child.stderr).on('line', (text) => {
    if (text.startsWith('{')) lines.push(JSON.parse(text) as Line);
    else other.push(text);
  });
  let said = '';
  child.stdout.on('data', (chunk) => (said += String(chunk)));
  await until(`the shards (${other.join('; ')})`, () => said.includes('\n') || child.exitCode !== null);
  const { reachable = [] } = (said === '' ? {} : JSON.parse(said)) as Partial<Running>;
  const port = Number(reachable[0]?.where.split(':')[1]);
  const line: Running['line'] = (wanted, from = 0) => until('a line', () => lines.slice(from).findLast(wanted));
  return { child, lines, reachable, port, exit, line };
}

async function scene(more: readonly string[] = []) {
  const site = await makeSite();
  ends.push(() => site.remove());
  const targets: FakeTarget<Connection>[] = [];
  const { listener } = await startServer(await site.credentials('target', 't1'), {
    accept: ['process-server'],
    onConnection: (connection) => targets.push(new FakeTarget(connection)),
  });
  ends.push(() => listener.close());
  const running = await start(site, listener.port, more);
  const agent = async (name: string, credentials: Credentials): Promise<FakeAgent<Connection>> => {
    const { port } = running;
    const options = { host: '127.0.0.1', port, credentials, expectRole: 'process-server', clock: systemClock } as const;
    const made = new FakeAgent(await connect(options));
    made.hello(name);
    await until(`WELCOME for ${name}`, () => made.frames.some(({ type }) => type === frameType.welcome) || made.over);
    return made;
  };
  return { site, running, targets, agent };
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

it('shares one port: agents are spread, move when their shard is killed, and all ends with one signal', async () => {
  const { site, running, agent } = await scene();
  const spooled = (name: string): boolean => existsSync(path.join(site.directory, 'data', 'spool', name));
  expect(spooled('+shard-3')).toBe(false);
  await until('the spool of a shard', () => spooled('+shard-2'));
  expect(running.reachable.map(({ what }) => what)).toEqual(['agents', 'metrics of shard 1', 'metrics of shard 2']);
  const [, one, two] = running.reachable.map(({ where }) => where);
  for (const url of [one, two]) {
    const reply = await fetch(url ?? '');
    expect(await reply.text()).toContain('tidemark_process_server_sessions');
  }
  expect(one).not.toBe(two);

  const names = ['m1', 'm2', 'm3', 'm4'];
  const credentials = new Map<string, Credentials>();
  for (const name of names) credentials.set(name, await site.credentials('agent', name));
  const connected = new Map<string, FakeAgent<Connection>>();
  const come = async (name: string): Promise<FakeAgent<Connection>> => {
    const made = await agent(name, credentials.get(name) ?? (await site.credentials('agent', name)));
    connected.set(name, made);
    return made;
  };
  for (const name of names) await come(name);
  const shardOf = async (name: string, from = 0): Promise<number> =>
    (await running.line(({ message, machine }) => message.includes('began') && machine === name, from)).shard ?? 0;
  const spread = await Promise.all(names.map((name) => shardOf(name)));
  expect([...spread].sort()).toEqual([1, 1, 2, 2]);

  // One shard is killed: those who were there find the other one at once, and it is started again.
  const killed = spread[0] ?? 0;
  const pids = [1, 2].map(
    (shard) => running.lines.find((line) => line.message.includes('takes conn') && line.shard === shard)?.pid ?? 0,
  );
  const moved = names.filter((_, index) => spread[index] === killed);
  const from = running.lines.length;
  const killedMs = Date.now();
  process.kill(pids[killed - 1] ?? 0, 'SIGKILL');
  for (const name of moved) {
    await until(`${name} to be cut off`, () => connected.get(name)?.over);
    expect((await come(name)).over).toBe(false);
    expect(await shardOf(name, from)).toBe(3 - killed);
  }
  expect(Date.now() - killedMs).toBeLessThan(10_000);
  const again = await running.line(({ message, shard }) => message.includes('takes conn') && shard === killed, from);
  for (const name of names.filter((other) => !moved.includes(other))) expect(connected.get(name)?.over).toBe(false);

  running.child.kill('SIGTERM');
  expect(await running.exit).toBe(0);
  for (const pid of [...pids, again.pid ?? 0]) expect(isAlive(pid)).toBe(false);
  expect([...connected.values()].every(({ error }) => error?.code === 'shutting-down')).toBe(true);
}, 60_000);

it('ends what one shard has of a machine when its agent comes to another, though nobody saw the old connection end', async () => {
  const { site, running, targets, agent } = await scene();
  const credentials = await site.credentials('agent', 'm1');
  const first = await agent('m1', credentials);
  const second = await agent('m1', credentials);
  await until('the first to be told', () => first.over);
  expect(first.error).toMatchObject({ code: 'superseded', retryable: true });
  expect(second.over).toBe(false);
  const began = (): Line[] => running.lines.filter(({ message }) => message.includes('began'));
  await until('both sessions in the log', () => began().length === 2);
  const shards = began().map(({ shard }) => shard);
  expect(new Set(shards)).toEqual(new Set([1, 2]));
  expect(targets.map(({ events }) => events[0])).toEqual(Array(2).fill('HELLO process-server m1'));
}, 60_000);

it('takes its shards with it when it is killed', async () => {
  const { running } = await scene();
  const pids = running.lines.flatMap(({ message, pid }) =>
    message.includes('takes conn') && pid !== undefined ? [pid] : [],
  );
  expect(pids).toHaveLength(2);
  running.child.kill('SIGKILL');
  await until('the shards to end', () => pids.every((pid) => !isAlive(pid)));
}, 60_000);

it('says once, and with its exit code, why no shard can start', async () => {
  const site = await makeSite();
  ends.push(() => site.remove());
  const running = await start(site, 1, ['--listen', '203.0.113.1:9443']);
  expect(await running.exit).toBe(2);
}, 60_000);
