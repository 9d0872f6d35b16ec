import { describe, expect, it } from 'vitest';
import { GiB } from '../../src/kit/sizes.ts';
import { definitionSchema, sameDefinition, type MachineDefinition } from '../../src/wire/definition.ts';

const definition: MachineDefinition = {
  cpus: 2,
  memoryBytes: 2 * GiB,
  firmware: 'bios',
  type: 'q35',
  bus: 'virtio',
  disks: ['root', 'data'],
  nics: [{ mac: '52:54:00:12:34:56', model: 'virtio', network: 'lan' }],
};
const complaint = (change: object): string =>
  definitionSchema.safeParse({ ...definition, ...change }).error?.issues[0]?.message ?? 'taken';

describe('definition of a machine', () => {
  it('is taken as it is', () => {
    expect(definitionSchema.parse(definition)).toEqual(definition);
  });

  it('is refused where no machine of that kind can be made', () => {
    expect(complaint({ cpus: 0 })).toContain('>=1');
    expect(complaint({ memoryBytes: 2 * GiB + 1 })).toContain('multiple');
    expect(complaint({ disks: ['a', 'a'] })).toBe('disk names differ');
    expect(complaint({ bus: 'ide' })).toContain('q35 has no IDE');
    expect(complaint({ bus: 'sata', disks: Array.from({ length: 7 }, (_, no) => `d${no}`) })).toBe(
      'sata takes at most 6 disks',
    );
    expect(complaint({ nics: [{ mac: '01:00:5e:00:00:01', model: 'virtio' }] })).toContain('unicast');
    const twice = { mac: '52:54:00:00:00:01', model: 'virtio' };
    expect(complaint({ nics: [twice, twice] })).toBe('addresses differ');
  });

  it('can name neither a file nor a command of the host that starts it', () => {
    expect(complaint({ kernel: '/boot/vmlinuz' })).toContain('kernel');
    expect(complaint({ nics: [{ model: 'virtio,script=x' }] })).not.toBe('taken');
    expect(complaint({ nics: [{ model: 'virtio', network: 'a,script=/bin/x' }] })).not.toBe('taken');
    expect(complaint({ disks: ['../x'] })).not.toBe('taken');
  });

  it('is the same whatever order its fields came in', () => {
    const turned = Object.fromEntries(Object.entries(definition).reverse()) as MachineDefinition;
    expect(sameDefinition(turned, definition)).toBe(true);
    expect(sameDefinition({ ...definition, cpus: 3 }, definition)).toBe(false);
    expect(sameDefinition(null, definition)).toBe(false);
    expect(sameDefinition(null, null)).toBe(true);
  });
});
