/**
 * The definition of a machine: what its disks do not say, and without which they do not start. It travels with the points (POINT, record
 * MACHINE), so a point is started as the machine was then. `protect` takes it, from flags or from a libvirt domain XML.
 *
 * 1. It names no path, no address and no command of any host: the source says it, and the recovery site runs a machine by it (C8). Firmware
 *    and devices are names of closed lists; `network` is a label for people and for libvirt, and connects nothing by itself.
 * 2. `disks` is the order the firmware tries them in, the first one first; disks of a point that it does not name come after them.
 */
import { z } from 'zod';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import { diskName } from './control-body.ts';

const { machine } = limits;

export const firmwares = ['bios', 'uefi'] as const;
/** QEMU's chipsets: `pc` is i440FX with PCI and IDE, `q35` has PCI Express and AHCI. */
export const machineTypes = ['pc', 'q35'] as const;
export const diskBuses = ['virtio', 'scsi', 'sata', 'ide'] as const;
export const nicModels = ['virtio', 'e1000', 'e1000e', 'rtl8139', 'vmxnet3'] as const;

const nicSchema = z.strictObject({
  mac: z
    .string()
    .regex(/^[0-9a-f][02468ace](?::[0-9a-f]{2}){5}$/, 'a unicast address as 52:54:00:12:34:56, in lower case')
    .optional(),
  model: z.enum(nicModels),
  network: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'letters, digits, ".", "_", "-"; at most 64')
    .optional(),
});

const differ = (values: readonly string[]): boolean => new Set(values).size === values.length;

/** IDE has two channels with two disks each, on `pc` only; QEMU's `q35` has six SATA ports, and one controller is all that is made. */
const busDisksMax = { virtio: limits.disk.perMachineMax, scsi: limits.disk.perMachineMax, sata: 6, ide: 4 } as const;

export const definitionSchema = z
  .strictObject({
    cpus: z.int().min(1).max(machine.cpusMax),
    memoryBytes: z.int().min(machine.memoryBytesMin).max(machine.memoryBytesMax).multipleOf(MiB),
    firmware: z.enum(firmwares),
    type: z.enum(machineTypes),
    bus: z.enum(diskBuses).describe('How all disks are attached.'),
    disks: z
      .array(diskName)
      .min(1)
      .max(limits.disk.perMachineMax)
      .refine(differ, 'disk names differ')
      .describe('In the order the firmware tries them.'),
    nics: z
      .array(nicSchema)
      .max(machine.nicsMax)
      .refine((nics) => differ(nics.flatMap(({ mac }) => mac ?? [])), 'addresses differ'),
  })
  .superRefine(({ bus, type, disks }, context) => {
    if (disks.length > busDisksMax[bus]) {
      context.addIssue({ code: 'custom', path: ['disks'], message: `${bus} takes at most ${busDisksMax[bus]} disks` });
    }
    if (bus === 'ide' && type === 'q35') {
      context.addIssue({ code: 'custom', path: ['bus'], message: 'q35 has no IDE; use sata, or the machine type pc' });
    }
  });

export type MachineDefinition = z.infer<typeof definitionSchema>;
export type Nic = MachineDefinition['nics'][number];

/** Whether two definitions say the same. */
export function sameDefinition(a: MachineDefinition | null, b: MachineDefinition | null): boolean {
  return JSON.stringify(a && definitionSchema.parse(a)) === JSON.stringify(b && definitionSchema.parse(b));
}
