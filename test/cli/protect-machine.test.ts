import { expect, it } from 'vitest';
import { commandLine } from './fake-roles.ts';

it('protect passes on what the machine is, by flags or as a file, or says nothing of it', async () => {
  const said: unknown[] = [];
  const line = commandLine({
    files: { 'web1.xml': '<domain/>' },
    roles: {
      protect: async ({ machine, disks, policy, definition }) => (
        said.push(definition),
        { machine, disks, policy, warnings: [] }
      ),
    },
  });
  const protect = (...flags: string[]) => line.run('protect', 'web1', '--disk', 'vda', ...flags);
  expect(await protect()).toBe(0);
  expect(await protect('--machine-xml', 'web1.xml')).toBe(0);
  const nic = 'e1000,mac=52:54:00:12:34:56,network=lan';
  expect(await protect('--cpus', '2', '--memory', '4G', '--firmware', 'uefi', '--nic', nic, 'virtio')).toBe(0);
  expect(said).toEqual([
    undefined,
    { xml: '<domain/>' },
    {
      cpus: 2,
      memoryBytes: 4 * 2 ** 30,
      firmware: 'uefi',
      type: 'q35',
      bus: 'virtio',
      nics: [{ model: 'e1000', mac: '52:54:00:12:34:56', network: 'lan' }, { model: 'virtio' }],
    },
  ]);
});
