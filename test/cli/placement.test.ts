/** Where machines are, for people and for programs: what is said when nothing was done, and the report of each command with --json. */
import { expect, it } from 'vitest';
import type { Roles } from '../../src/cli/roles.ts';
import { commandLine } from './fake-roles.ts';

const sinceMs = Date.UTC(2026, 0, 2);
const server = {
  name: 'ps-1',
  address: 'ps1:9443',
  state: 'ok' as const,
  sessions: 1,
  inFlightBytes: 0,
  windowBytes: 1024,
  processes: 1,
  busyProcesses: 0,
  heardMs: sinceMs,
  machines: ['web1'],
  throttle: null,
};
const moved = { machine: 'web1', from: 'ps-1', to: 'ps-2', address: 'ps2:9443', changed: true };
const released = { machine: 'web1', from: { server: 'ps-1', epoch: 7, sinceMs } };

async function said(roles: Partial<Roles>, ...words: string[]): Promise<{ stdout: string; stderr: string }> {
  const line = commandLine({ roles });
  expect(await line.run(...words), line.stderr()).toBe(0);
  return { stdout: line.stdout(), stderr: line.stderr() };
}

it.each<[Partial<Roles>, string[], object]>([
  [{ move: async () => moved }, ['move', 'web1'], moved],
  [{ processServers: async () => ({ processServers: [server] }) }, ['process-servers'], { processServers: [server] }],
  [{ processServers: async () => ({ processServers: [server] }) }, ['process-servers', 'x'], { processServers: [] }],
  [{ releaseMachine: async () => released }, ['release', 'web1', '--data', '/t'], released],
])('%j, %j --json is the report and nothing else', async (roles, words, report) => {
  const { stdout, stderr } = await said(roles, ...words, '--json');
  expect([JSON.parse(stdout), stderr]).toEqual([report, '']);
});

it('move says so when the machine is there already, and that nobody had it', async () => {
  const there = await said({ move: async () => ({ ...moved, changed: false }) }, 'move', 'web1');
  expect(there).toEqual({ stdout: '', stderr: expect.stringMatching(/web1 is with ps-2 already\n$/) as string });
  const first = await said({ move: async () => ({ ...moved, from: null }) }, 'move', 'web1');
  expect(first.stderr).toContain('web1 moves to ps-2 (ps2:9443)');
});

it('process-servers says so when there is none, or none of that name', async () => {
  const processServers = async () => ({ processServers: [] });
  expect((await said({ processServers }, 'process-servers')).stderr).toContain('no process server asked control');
  expect((await said({ processServers }, 'process-servers', 'x')).stderr).toContain(
    'no process server x asked control',
  );
});

it('release is of the machine and the directory given, and names the epoch', async () => {
  const asked: unknown[] = [];
  const releaseMachine: Roles['releaseMachine'] = async (request) => {
    asked.push(request);
    return released;
  };
  const { stderr } = await said({ releaseMachine }, 'release', 'web1', '--data', '/t');
  expect(stderr).toContain('ps-1 had it since 2026-01-02T00:00:00.000Z by a lease, under epoch 7');
  expect(asked).toMatchObject([{ machine: 'web1', data: '/t' }]);
});
