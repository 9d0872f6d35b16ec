/** Definitions of machines for tests: one plain, and any that can be. */
import fc from 'fast-check';
import { GiB, MiB } from '../../src/kit/sizes.ts';
import { limits } from '../../src/limits.ts';
import { definitionSchema, diskBuses, firmwares, machineTypes, nicModels } from '../../src/wire/definition.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';

export const plain: MachineDefinition = {
  cpus: 1,
  memoryBytes: 192 * MiB,
  firmware: 'bios',
  type: 'q35',
  bus: 'virtio',
  disks: ['root'],
  nics: [],
};

const mac = fc
  .uint8Array({ minLength: 5, maxLength: 5 })
  .map((bytes) => `52:${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':')}`);
const nic = fc.record(
  { model: fc.constantFrom(...nicModels), mac, network: fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,10}$/) },
  { requiredKeys: ['model'] },
);

export const anyDefinition: fc.Arbitrary<MachineDefinition> = fc
  .record({
    cpus: fc.integer({ min: 1, max: limits.machine.cpusMax }),
    memoryBytes: fc.integer({ min: 16, max: (64 * GiB) / MiB }).map((mebibytes) => mebibytes * MiB),
    firmware: fc.constantFrom(...firmwares),
    type: fc.constantFrom(...machineTypes),
    bus: fc.constantFrom(...diskBuses),
    disks: fc.uniqueArray(fc.stringMatching(/^[a-z0-9][a-z0-9._-]{0,12}$/), { minLength: 1, maxLength: 8 }),
    nics: fc.uniqueArray(nic, { maxLength: 4, selector: (each) => each.mac ?? each }),
  })
  .filter((definition) => definitionSchema.safeParse(definition).success);
