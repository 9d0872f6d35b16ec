/** Words for QEMU: what they say, and that QEMU itself takes them, for every bus and chipset and for the most disks. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { limits } from '../../src/limits.ts';
import {
  inBootOrder,
  type MachineDisk,
  machineWords,
  parseNbdUri,
  qemuCommand,
  qemuImageWords,
} from '../../src/recovery/qemu.ts';
import {
  diskBuses,
  definitionSchema,
  machineTypes,
  type MachineDefinition,
  nicModels,
} from '../../src/wire/definition.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { plain } from './definitions.ts';

const disk = (name: string): MachineDisk => ({ name, uri: `nbd+unix:///${name}?socket=/run/a,b%20c'd/nbd.sock` });
const machine = { title: 'web, test-1', definition: plain, disks: [disk('root')] };

describe('words for QEMU', () => {
  it('give no network card unless asked, and then one that leads nowhere', () => {
    const definition: MachineDefinition = {
      ...plain,
      nics: [{ model: 'e1000', mac: '52:54:00:00:00:01', network: 'lan' }],
    };
    expect(machineWords({ ...machine, definition }).slice(-2)).toEqual(['-nic', 'none']);
    const asked = machineWords({ ...machine, definition, network: { forward: { port: 22 } } });
    expect(asked.slice(-4)).toEqual([
      '-netdev',
      'user,id=net-0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22',
      '-device',
      'e1000,netdev=net-0,mac=52:54:00:00:00:01',
    ]);
    const guest = { address: '192.168.1.5', prefix: 24 };
    expect(machineWords({ ...machine, definition, network: { forward: { port: 22, guest } } })).toContain(
      'user,id=net-0,restrict=on,net=192.168.1.5/24,hostfwd=tcp:127.0.0.1:0-192.168.1.5:22',
    );
  });

  it('attach disks in the order of the definition, those it does not name behind', () => {
    const definition = { ...plain, disks: ['b', 'gone', 'a'] };
    expect(inBootOrder(definition, ['a', 'new', 'b'].map(disk)).map(({ name }) => name)).toEqual(['b', 'a', 'new']);
  });

  it('take the address of a disk apart', () => {
    expect(parseNbdUri(disk('root').uri)).toEqual({ export: 'root', transport: 'unix', path: "/run/a,b c'd/nbd.sock" });
    expect(parseNbdUri('nbd://[::1]:10810/root')).toEqual({
      export: 'root',
      transport: 'tcp',
      host: '::1',
      port: 10_810,
    });
    expect(parseNbdUri('nbd://host/root')).toMatchObject({ port: 10_809 });
    const tls = 'nbds://host:1/root?tls-certificates=/d/a%2Cb%20c';
    expect(parseNbdUri(tls)).toEqual({ export: 'root', transport: 'tcp', host: 'host', port: 1, tls: '/d/a,b c' });
    expect(() => parseNbdUri('nbds://host/root')).toThrow('no NBD address');
    expect(() => parseNbdUri('http://host/root')).toThrow('no NBD address');
    expect(() => parseNbdUri('nbd+unix:///root')).toThrow('no NBD address');
  });

  it('come through a shell as they are', async () => {
    const line = qemuCommand(machine).replace('qemu-system-x86_64', String.raw`printf '%s\n'`);
    const heard = (await runToolOk('sh', ['-c', line])).split('\n');
    expect(heard).toEqual(expect.arrayContaining(machineWords(machine)));
  });

  it('name the certificates for all disks behind TLS once, and nothing of them without it', () => {
    const disks = ['a', 'b'].map((name) => ({ name, uri: `nbds://host:1/${name}?tls-certificates=/d/a%2Cb` }));
    const words = machineWords({ ...machine, disks });
    expect(words.filter((word) => word.includes('tls-creds-x509'))).toEqual([
      '{"qom-type":"tls-creds-x509","id":"tls","endpoint":"client","dir":"/d/a,b","verify-peer":true}',
    ]);
    expect(words.filter((word) => word.includes('"tls-creds":"tls"'))).toHaveLength(2);
    expect(qemuCommand(machine)).not.toContain('tls');
    expect(qemuImageWords('nbd://host:1/a')).toBeNull();
  });

  it('name both files of a UEFI firmware', () => {
    const words = machineWords({ ...machine, uefi: { code: '/code.fd', variables: '/a,b.fd' } });
    expect(words).toContain('q35,pflash0=firmware-code,pflash1=firmware-variables');
    expect(words.filter((word) => word.includes('firmware-variables'))[1]).toContain('"filename":"/a,b.fd"');
  });
});

/** What QEMU says to them; nothing when it takes them. Disks are made of nothing, since none is served. */
function objection(definition: MachineDefinition): string {
  const words = machineWords({ title: 'x', definition, disks: definition.disks.map(disk), network: {} }).map((word) =>
    word.replace(/^\{"driver":"nbd","node-name":"([^"]+)".*/, '{"driver":"null-co","node-name":"$1"}'),
  );
  const own = ['-accel', 'tcg', '-S', '-display', 'none', '-monitor', 'stdio'];
  const run = spawnSync('qemu-system-x86_64', [...words, ...own], { input: 'quit\n', timeout: 20_000 });
  return run.status === 0 ? run.stderr.toString() : `${run.status} ${run.stderr.toString()}`;
}

describe.skipIf(!requireTool('qemu-system-x86_64'))('QEMU', () => {
  const most = { virtio: limits.disk.perMachineMax, scsi: limits.disk.perMachineMax, sata: 6, ide: 4 };
  const nics = nicModels.map((model) => ({ model }));
  const kinds = machineTypes.flatMap((type) =>
    diskBuses.map((bus) => {
      const disks = Array.from({ length: most[bus] }, (_, no) => `disk-${no}`);
      return { ...plain, type, bus, disks, nics };
    }),
  );
  const makeable = kinds.filter((kind) => definitionSchema.safeParse(kind).success);

  it('takes every kind of machine that a definition can name', () => {
    expect(makeable).toHaveLength(kinds.length - 1);
    for (const kind of makeable) expect(objection(kind), `${kind.type} ${kind.bus}`).toBe('');
  });

  it('says when it does not', () => {
    expect(objection({ ...plain, bus: 'sata', disks: Array.from({ length: 7 }, (_, no) => `disk-${no}`) })).toContain(
      '1 ',
    );
  });
});
