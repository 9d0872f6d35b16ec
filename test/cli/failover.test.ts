/** `tidemark failover` on roles that are not there: what it takes, asks, passes on and prints. */
import { describe, expect, it } from 'vitest';
import type { FailoverReport, FailoverRequest, FailoverRoles } from '../../src/cli/failover-roles.ts';
import { exitCodes } from '../../src/fatal.ts';
import { Problem } from '../../src/kit/problem.ts';
import { commandLine } from './fake-roles.ts';

const report: FailoverReport = {
  id: 'test-1',
  kind: 'test',
  machine: 'web1',
  point: 7,
  cutTimeMs: Date.UTC(2026, 0, 2),
  createdMs: Date.UTC(2026, 0, 3),
  state: 'running',
  generation: 0,
  served: true,
  disks: [{ name: 'vda', size: 1024, uri: 'nbd+unix:///vda?socket=/x', qemuImage: null, trouble: null }],
  certificates: null,
  qemu: 'qemu-system-x86_64 …',
  domainXml: '/d/domain.xml',
  directory: '/d',
};

describe('failover', () => {
  it.each([
    [['test', 'web1', '--at', '2026-01-02'], 'Not a time'],
    [['test', 'web1', '--space', '12X'], 'Not a size'],
    [['test', 'web1', '--space', '0'], 'Not a size'],
    [['test', 'web1', '--listen', 'http'], 'Allowed choices are unix, tcp, tls'],
    [['test', 'web1', '--address', '192.0.2.1'], 'is for TLS only'],
    [['test', 'web1', '--listen', 'tcp', '--address', '127.0.0.1'], 'is for TLS only'],
    [['test', 'web1', '--point', '3', '--at', '2026-01-02T00:00:00Z'], 'cannot be used with'],
    [['test'], "missing required argument 'machine'"],
  ])('%j is refused', async (words, says) => {
    const line = commandLine();
    expect(await line.run('failover', ...words)).toBe(exitCodes.usage.code);
    expect(line.stderr()).toContain(says);
  });

  it('passes on what was asked for, and prints addresses on stdout and the rest on stderr', async () => {
    const asked: FailoverRequest[] = [];
    const line = commandLine({ roles: { testFailover: (request) => Promise.resolve((asked.push(request), report)) } });
    const words = ['--at', '2026-01-02T01:00:00+01:00', '--space', '2G', '--listen', 'tcp', '--data', '/t'];
    expect(await line.run('failover', 'test', 'web1', ...words)).toBe(0);
    const point = { atMs: Date.UTC(2026, 0, 2) };
    expect(asked).toMatchObject([{ machine: 'web1', data: '/t', point, spaceBytes: 2 ** 31, listen: 'tcp' }]);
    expect(line.stdout()).toBe('nbd+unix:///vda?socket=/x\n');
    for (const words of ['test-1', 'point 7', 'qemu-system-x86_64 …', '/d/domain.xml'])
      expect(line.stderr()).toContain(words);
  });

  it('asks for TLS on loopback, or on the address it is told, and prints what clients need', async () => {
    const asked: FailoverRequest[] = [];
    const withTls: FailoverReport = {
      ...report,
      disks: [{ name: 'vda', size: 1024, uri: 'nbds://h:1/vda', qemuImage: "--object '{}' json:{}", trouble: null }],
      certificates: '/d/tls/client',
    };
    const roles: Partial<FailoverRoles> = {
      unplannedFailover: (request) => Promise.resolve((asked.push(request), withTls)),
    };
    const line = commandLine({ roles });
    for (const words of [[], ['--address', 'recovery.example']])
      expect(await line.run('failover', 'unplanned', 'web1', '--yes', '--listen', 'tls', ...words)).toBe(0);
    expect(asked.map(({ listen }) => listen)).toEqual([{ tls: '127.0.0.1' }, { tls: 'recovery.example' }]);
    for (const words of ['/d/tls/client', "vda for qemu-img: --object '{}' json:{}"])
      expect(line.stderr()).toContain(words);
  });

  it('says why there is no QEMU command', async () => {
    const line = commandLine({ roles: { testFailover: () => Promise.resolve({ ...report, qemu: null }) } });
    expect(await line.run('failover', 'test', 'web1')).toBe(0);
    expect(line.stderr()).toContain('no UEFI firmware is installed here');
  });

  it('prints where a test is that did not start, too', async () => {
    const roles: Partial<FailoverRoles> = {
      bootTestFailover: (_request, told) => {
        told.unproven(report);
        return Promise.reject(new Problem('not-bootable', 'the machine did not start'));
      },
    };
    const line = commandLine({ roles });
    expect(await line.run('failover', 'test', 'web1', '--boot')).toBe(exitCodes['check-failed'].code);
    expect(line.stdout()).toBe('nbd+unix:///vda?socket=/x\n');
    expect(line.stderr()).toContain('test-1');
  });

  it('asks before the replica becomes the primary, and before what was written is lost', async () => {
    for (const [name, role] of [
      ['unplanned', 'unplannedFailover'],
      ['cancel', 'cancelFailover'],
    ] as const) {
      let done = 0;
      const roles = { [role]: () => Promise.resolve(((done += 1), report)) };
      expect(await commandLine({ roles }).run('failover', name, 'web1')).toBe(exitCodes.usage.code);
      expect(await commandLine({ roles, typed: 'yes' }).run('failover', name, 'web1')).toBe(exitCodes.usage.code);
      expect(done).toBe(0);
      expect(await commandLine({ roles, typed: 'web1' }).run('failover', name, 'web1')).toBe(0);
      expect(await commandLine({ roles }).run('failover', name, 'web1', '--yes')).toBe(0);
      expect(done).toBe(2);
    }
  });

  it('lists what there is, and hides what only it starts', async () => {
    const trouble = { code: 'full' as const, message: 'there is no room', remedy: 'make room' };
    const failovers = [
      report,
      {
        ...report,
        id: 'test-2',
        served: false,
        disks: [{ name: 'vda', size: 1, uri: null, qemuImage: null, trouble: null }],
      },
      { ...report, id: 'test-3', disks: report.disks.map((disk) => ({ ...disk, trouble })) },
    ];
    const line = commandLine({ roles: { listFailovers: () => Promise.resolve({ failovers }) } });
    expect(await line.run('failover', 'list')).toBe(0);
    expect(line.stdout().split('\n').slice(1)).toEqual([
      expect.stringMatching(/^web1 +test-1 +7 .* running +yes +vda +ok +nbd\+unix/),
      expect.stringMatching(/^web1 +test-2 +7 .* running +no +vda +- +-$/),
      expect.stringMatching(/^web1 +test-3 +7 .* running +yes +vda +full +nbd\+unix/),
      '',
    ]);
    expect(line.stderr()).toBe('disk vda of web1 in test-3: there is no room\n  make room\n');
    const help = commandLine();
    await help.run('failover', '--help');
    expect(help.stdout()).toContain('cleanup');
    expect(help.stdout()).not.toContain('serve');
  });
});
