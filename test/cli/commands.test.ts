import { describe, expect, it } from 'vitest';
import type { AgentConfig } from '../../src/config.ts';
import type { ExportReport, PointReport, ResyncReport } from '../../src/cli/roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { Problem } from '../../src/kit/problem.ts';
import { commandLine, fakeRunning } from './fake-roles.ts';
import { healthy } from './status-fixture.ts';

const point: PointReport = {
  machine: 'web1',
  point: 7,
  cutTimeMs: Date.UTC(2026, 0, 2),
  committedMs: Date.UTC(2026, 0, 2, 0, 0, 1),
  provenMs: null,
  damaged: false,
  booted: null,
  pinned: false,
  consistency: 'crash',
  evidence: null,
  disks: [
    { name: 'vda', size: 512 * 1024 * 1024, root: 'ab'.repeat(32), kind: 'delta', payloadBytes: 4096, writes: 3 },
  ],
};
const exported: ExportReport = {
  machine: 'web1',
  disk: 'vda',
  point: 7,
  cutTimeMs: point.cutTimeMs,
  format: 'raw',
  size: 1024,
  dataBytes: 512,
  keptBytes: 0,
  root: 'ab',
  file: '/x.raw',
  seconds: 1,
};
describe('bad command lines', () => {
  it.each([
    [['targt'], 'Did you mean target?'],
    [['points', '--dta', '/x'], 'Did you mean --data?'],
    [['export', 'web1'], "required option '--to <path>'"],
    [['export', '--to', 'x'], "missing required argument 'machine'"],
    [['export', 'a', 'b', 'c', '--to', 'x'], 'too many arguments'],
    [['export', 'web1', '--to', 'x', '--point', 'newest'], 'Not a point'],
    [['nbd', 'web1'], 'give --socket PATH or --port NUMBER'],
    [['nbd', 'web1', '--socket', 'a', '--port', '1'], 'cannot be used with'],
    [['nbd', 'web1', '--port', '65536'], 'Not a whole number'],
    [['nbd', 'web1', '--socket', 'a', '--tls'], 'cannot be used with'],
    [['nbd', 'web1', '--port', '1', '--address', '192.0.2.1'], 'is for TLS only'],
    [['token', 'create', '--hours', '121'], 'Not a whole number from 1 to 120'],
    [['token', 'create', '--role', 'control'], 'Allowed choices'],
    [['agent', '--disk', 'vda'], 'name=NAME,image=FILE'],
    [['protect', 'web1', '--disk', 'vda', '--block-size', '5000'], 'Not a power of two'],
    [['protect', 'web1', '--disk', 'vda', '--resync-window', '22-6'], 'did you mean "22:00-06:00"?'],
    [['protect', 'web1', '--disk', 'vda', '--resync-time-zone', 'UCT1'], '"UCT1" is not a time zone'],
    [['protect', 'web1', '--disk', 'vda', '--resync-at-dirty-percent', '0'], 'Not a whole number from 1 to 100'],
    [['protect', 'web1', '--disk', 'vda', '--app-consistent-hours', '13'], 'Not a whole number from 0 to 12'],
    [['target', '--listen', 'x:y:z'], 'not an address'],
    [['agent', '--machine', 'web1'], 'is not set'],
  ])('%j', async (words, message) => {
    const line = commandLine();
    expect(await line.run(...words)).toBe(exitCodes.usage.code);
    expect(line.stderr()).toContain(message);
    expect(line.stdout()).toBe('');
  });
});

describe('help', () => {
  it('is data: stdout, exit code 0, with the exit codes', async () => {
    const line = commandLine();
    expect(await line.run('--help')).toBe(0);
    for (const name of Object.keys(exitCodes)) expect(line.stdout()).toContain(name);
    expect(line.stderr()).toBe('');
  });

  it('version', async () => {
    const line = commandLine();
    expect(await line.run('version', '--json')).toBe(0);
    expect(await line.run('--version')).toBe(0);
    expect(line.stdout()).toBe('{"version":"1.2.3"}\n1.2.3\n');
  });
});

describe('problems', () => {
  it.each([
    [new Problem('locked', 'in use by 12', { remedy: 'end it first' }), exitCodes.locked.code],
    [new Problem('bad-recovery-file', 'of another vault'), exitCodes['no-key'].code],
    [new Problem('not-found', 'no such point'), exitCodes['not-found'].code],
    [new Problem('bad-config', 'wrong'), exitCodes.usage.code],
    [new TypeError('x is undefined'), exitCodes.internal.code],
  ])('%s', async (error, code) => {
    const line = commandLine({ roles: { listPoints: () => Promise.reject(error) } });
    expect(await line.run('points', '--json')).toBe(code);
    expect(line.stdout()).toBe('');
    expect(line.stderr()).toContain(error.message);
    if (error instanceof Problem) expect(line.stderr()).toContain(error.remedy);
  });

  it('can not send control characters to a terminal', async () => {
    const line = commandLine({ roles: { listPoints: () => Promise.reject(new Problem('refused', 'a\u001b[2Jb')) } });
    await line.run('points');
    expect(line.stderr()).not.toContain('\u001b');
  });
});

describe('data', () => {
  it('points, as a table and as JSON', async () => {
    const asked: unknown[] = [];
    const line = commandLine({
      roles: { listPoints: async (request) => (asked.push(request), { points: [point], gaps: [] }) },
      environment: { TIDEMARK_DATA: '/srv/t' },
    });
    expect(await line.run('points', 'web1')).toBe(0);
    expect(line.stdout()).toContain(
      'web1     7      2026-01-02T00:00:00.000Z  committed  crash  vda   512 MiB  delta  4 KiB  abababababababab\n',
    );
    expect(await line.run('points', '--json', '--data', '/x', '--vault', '/key')).toBe(0);
    expect(JSON.parse(line.stdout().split('\n').at(-2) ?? '')).toEqual({ points: [point], gaps: [] });
    expect(asked).toEqual([
      { data: '/srv/t/target', vault: '/srv/t/target/vault.key', machine: 'web1' },
      { data: '/x', vault: '/key', machine: undefined },
    ]);
  });

  it('export says what it did on stderr, and as JSON on stdout', async () => {
    const asked: unknown[] = [];
    const line = commandLine({
      roles: {
        exportPoint: async (request, progress) => {
          asked.push(request);
          progress.report(512, 1024);
          return exported;
        },
      },
    });
    expect(await line.run('export', 'web1', 'vda', '--data', '/x', '--point', '7', '--to', '/x.raw')).toBe(0);
    expect(line.stdout()).toBe('');
    expect(line.stderr()).toBe(
      'web1/vda as of point 7 (2026-01-02T00:00:00.000Z): 1 KiB, 512 B of data, written to /x.raw\n',
    );
    expect(await line.run('export', 'web1', '--data', '/x', '--to', '/x.raw', '--yes', '--json')).toBe(0);
    expect(JSON.parse(line.stdout())).toEqual(exported);
    expect(asked).toMatchObject([
      { machine: 'web1', disk: 'vda', point: 7, overwrite: false },
      { machine: 'web1', disk: undefined, point: 'proven', overwrite: true, format: 'raw', compress: false },
    ]);
    expect(await line.run('export', 'web1', '--to', '/x', '--compress')).toBe(exitCodes.usage.code);
    expect(await line.run('export', 'web1', '--to', '/x', '--format', 'qcow2', '--compress')).toBe(0);
    expect(asked.at(-1)).toMatchObject({ format: 'qcow2', compress: true });
  });

  it('move and process-servers say who has what', async () => {
    const moved = { machine: 'web1', from: 'ps-1', to: 'ps-2', address: 'ps2:9443', changed: true };
    const asked: unknown[] = [];
    const line = commandLine({ roles: { move: async (request: object) => (asked.push(request), moved) } });
    expect(await line.run('move', 'web1', '--to', 'ps-2')).toBe(0);
    expect(asked).toMatchObject([{ machine: 'web1', to: 'ps-2' }]);
    expect(line.stderr()).toContain('web1 moves from ps-1 to ps-2 (ps2:9443)');
    const load = { sessions: 1, inFlightBytes: 0, windowBytes: 1024, heardMs: point.cutTimeMs };
    const server = { ...load, processes: 1, busyProcesses: 0, throttle: null };
    const busy = { ...server, processes: 4, busyProcesses: 1, state: 'busy' as const };
    const processServers = [
      { ...server, name: 'ps-1', address: 'ps1:9443', state: 'silent' as const, machines: [] },
      { ...server, name: 'ps-2', address: 'ps2:9443', state: 'ok' as const, machines: ['web1', 'web2'] },
      { ...busy, name: 'ps-3', address: 'ps3:9443', machines: [] },
    ];
    const list = commandLine({ roles: { processServers: async () => ({ processServers }) } });
    expect(await list.run('process-servers')).toBe(0);
    expect(list.stdout()).toContain('ps-1  ps1:9443  silent since 2026-01-02');
    expect(list.stdout()).toContain('ps-2  ps2:9443  ok, 1 session,');
    expect(list.stdout()).toContain('  web1 web2');
    expect(list.stdout()).toContain('ps-3  ps3:9443  busy (1 of 4 processes), 1 session,');
    const silent = new Problem('unreachable', 'process server ps-2 is silent', { retryable: true });
    const refused = commandLine({ roles: { move: () => Promise.reject(silent) } });
    expect(await refused.run('move', 'web1')).toBe(exitCodes.unreachable.code);
  });

  it('release says who had the machine by a lease, and that nobody had', async () => {
    const from = { server: 'ps-1', epoch: 7, sinceMs: point.cutTimeMs };
    const line = commandLine({
      roles: { releaseMachine: async ({ machine }) => ({ machine, from: machine === 'web1' ? from : null }) },
    });
    expect(await line.run('release', 'web1', '--data', '/t')).toBe(0);
    expect(line.stderr()).toContain('web1 is released: ps-1 had it since 2026-01-02');
    expect(await line.run('release', 'web2', '--data', '/t')).toBe(0);
    expect(line.stderr()).toContain('no lease holds web2 here; nothing was changed');
  });

  it('resync says what happens when, and who does not hear of it', async () => {
    const asked: unknown[] = [];
    const report: ResyncReport = {
      machine: 'web1',
      id: 7,
      disks: [
        { name: 'vda', now: true },
        { name: 'vdb', now: false },
      ],
      agent: 'silent',
      window: '22:00-06:00',
      opensAtMs: Date.UTC(2026, 0, 2, 21),
      timeZone: 'Europe/Berlin',
    };
    const run = async (more: Partial<ResyncReport>, ...words: string[]): Promise<string> => {
      const roles = { resync: async (request: object) => (asked.push(request), { ...report, ...more }) };
      const line = commandLine({ roles });
      expect(await line.run('resync', 'web1', ...words)).toBe(0);
      return words.includes('--json') ? line.stdout() : line.stderr();
    };
    expect(await run({}, '--disk', 'vda', 'vdb')).toBe(
      [
        'web1: every block of vda is compared with the replica at once',
        'web1: every block of vdb is compared with the replica when the window 22:00-06:00 opens, 2026-01-02 22:00 Europe/Berlin; --now does not wait for it',
        'the agent does not report now: it is told as soon as it does',
        '',
      ].join('\n'),
    );
    expect(await run({ opensAtMs: null, agent: 'connected' })).toContain(
      'the window 22:00-06:00 Europe/Berlin is open',
    );
    expect(await run({ opensAtMs: null, window: null }, '--now')).toContain('the policy has no window');
    expect(JSON.parse(await run({}, '--json'))).toEqual(report);
    expect(asked).toMatchObject([
      { machine: 'web1', disks: ['vda', 'vdb'], now: false },
      { machine: 'web1', disks: undefined, now: false },
      { now: true },
      {},
    ]);
  });

  it('a registration key alone goes to stdout', async () => {
    const made = { registrationKey: 'tmk1.a.b', role: 'agent' as const, name: 'web1', expiresMs: 0 };
    const line = commandLine({ roles: { createToken: async () => made } });
    expect(await line.run('token', 'create', '--name', 'web1')).toBe(0);
    expect(line.stdout()).toBe('tmk1.a.b\n');
    expect(line.stderr()).toContain('for one agent named web1');
  });

  it('enroll reads the key from a file or standard input, never from an argument', async () => {
    const asked: unknown[] = [];
    const line = commandLine({
      files: { '-': 'tmk1.a.b\n', empty: '\n' },
      roles: {
        enroll: async (request) => (
          asked.push(request),
          { role: request.role, name: request.name, credentials: request.into, expiresMs: 0 }
        ),
      },
    });
    expect(await line.run('enroll', 'web1', '--key-file', '-', '--into', '/c', '--control-url', 'https://c:8443')).toBe(
      0,
    );
    expect(asked).toEqual([
      { controlUrl: 'https://c:8443', registrationKey: 'tmk1.a.b', role: 'agent', name: 'web1', into: '/c' },
    ]);
    expect(await line.run('enroll', 'web1', '--key-file', 'empty', '--into', '/c')).toBe(exitCodes.usage.code);
    expect(await line.run('enroll', 'web1', '--key-file', 'nowhere', '--into', '/c')).toBe(exitCodes['not-found'].code);
  });

  it('protect and key export pass on what was said', async () => {
    const asked: unknown[] = [];
    const warning = { severity: 'warning' as const, code: 'transfer-long', message: 'it is slow', remedy: 'wait' };
    const line = commandLine({
      roles: {
        protect: async (request) => (
          asked.push(request),
          { machine: request.machine, disks: request.disks, policy: request.policy, warnings: [warning] }
        ),
        keyExport: async (request) => (asked.push(request), { file: request.to, vaultId: 'v' }),
      },
    });
    expect(
      await line.run('protect', 'web1', '--disk', 'vda', 'vdb', '--interval-seconds', '5', '--compression', 'zstd'),
    ).toBe(0);
    expect(line.stderr()).toContain('warning: it is slow; wait\n');
    expect(await line.run('key', 'export', '--data', '/x', '--to', '/r.json', '--json')).toBe(0);
    const window = ['--resync-window', '22:00-06:00', '--resync-time-zone', 'Asia/Kolkata'];
    const others = ['--resync-at-dirty-percent', 'never', '--app-consistent-hours', '4'];
    expect(await line.run('protect', 'web1', '--disk', 'vda', ...window, ...others)).toBe(0);
    expect(
      await line.run('protect', 'web1', '--disk', 'vda', '--resync-window', 'none', '--rpo-target-seconds', '90'),
    ).toBe(0);
    expect(asked.splice(2)).toMatchObject([
      {
        change: {
          resyncWindow: '22:00-06:00',
          resyncTimeZone: 'Asia/Kolkata',
          resyncAtDirtyPercent: 'never',
          appConsistentHours: 4,
        },
      },
      { change: { resyncWindow: null, resyncTimeZone: undefined, rpoTargetSeconds: 90 } },
    ]);
    expect(asked).toMatchObject([
      {
        machine: 'web1',
        disks: ['vda', 'vdb'],
        policy: 'default',
        change: { intervalSeconds: 5, compression: 'zstd' },
      },
      { data: '/x', vault: '/x/vault.key', to: '/r.json' },
    ]);
    expect(line.stdout()).toBe('{"file":"/r.json","vaultId":"v"}\n');
  });
});

describe('roles', () => {
  it('get a whole configuration from file, environment and flags', async () => {
    const asked: AgentConfig[] = [];
    const running = fakeRunning();
    const line = commandLine({
      files: { 'agent.yaml': 'agent: { processServer: ps, intervalSeconds: 9 }' },
      environment: { TIDEMARK_AGENT_MACHINE: 'web1', TIDEMARK_CONFIG: 'agent.yaml' },
      roles: {
        startAgent: async (config) => {
          asked.push(config);
          void running.close();
          return running;
        },
      },
    });
    const code = await line.run(
      'agent',
      '--disk',
      'name=vda,image=/i,socket=/s',
      '--disk',
      'name=vdb,image=/j,port=0',
      '--json',
    );
    expect(line.stderr()).toBe('tidemark agent: agents on 127.0.0.1:9443\n');
    expect(code).toBe(0);
    expect(asked).toMatchObject([
      {
        machine: 'web1',
        intervalSeconds: 9,
        processServer: [{ host: 'ps', port: 9443 }],
        disks: [
          { name: 'vda', image: '/i', socket: '/s' },
          { name: 'vdb', image: '/j', port: 0 },
        ],
      },
    ]);
    expect(JSON.parse(line.stdout())).toEqual({ running: 'agent', reachable: running.reachable });
  });

  it.each(['up', 'control', 'target', 'process-server'])('%s starts', async (role) => {
    const started: string[] = [];
    const start = (name: string) => async () => {
      started.push(name);
      const running = fakeRunning();
      void running.close();
      return running;
    };
    const roles = {
      startUp: start('up'),
      startControl: start('control'),
      startTarget: start('target'),
      startProcessServer: start('process-server'),
    };
    const line = commandLine({ roles, environment: { TIDEMARK_PROCESS_SERVER_TARGET: 't' } });
    expect(await line.run(role)).toBe(0);
    expect(started).toEqual([role]);
  });
});

describe('colour and progress', () => {
  it('appear on a terminal only', async () => {
    const roles = { status: async () => healthy };
    const plain = commandLine({ roles });
    const coloured = commandLine({ roles, terminal: true });
    await plain.run('status');
    await coloured.run('status');
    expect(plain.stdout()).not.toContain('\u001b');
    expect(coloured.stdout()).toContain('\u001b[32mok\u001b[0m');
  });
});
