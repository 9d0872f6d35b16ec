/**
 * The definition of a machine, read from a libvirt domain (`virsh dumpxml`). What can be started elsewhere is taken; what a machine may depend
 * on and will not find there (a device of the host, a security chip, disks on different buses) is refused by the name of its element, because
 * a machine that does not start is discovered too late. What does not matter for a start (graphics, sound, tuning) is passed over.
 *
 * Which of its disks is which: by `<serial>`, else by `<target dev>`, where those are names of protected disks; when none is, as many disks as
 * are protected are taken in the order they were named. CD-ROM and floppy drives are nobody's disks.
 */
import { DOMParser, type Element, onErrorStopParsing } from '@xmldom/xmldom';
import { messageOf, Problem } from '../kit/problem.ts';
import { GiB, MiB } from '../kit/sizes.ts';
import {
  definitionSchema,
  diskBuses,
  type MachineDefinition,
  machineTypes,
  type Nic,
  nicModels,
} from '../wire/definition.ts';

/** @param diskNames of the machine as it is protected. @throws Problem `bad-argument` naming the element. */
export function readDomainXml(text: string, diskNames: readonly string[]): MachineDefinition {
  const domain = rootOf(text);
  const kind = domain.getAttribute('type');
  if (kind !== 'kvm' && kind !== 'qemu') throw unsupported('domain', `type ${kind ?? ''}`, 'only kvm and qemu are');
  const os = only(domain, 'os');
  const devices = only(domain, 'devices');
  for (const name of ['kernel', 'initrd']) {
    if (all(os, name).length > 0) throw unsupported(`os/${name}`, 'it', 'what the machine starts from is on its disks');
  }
  for (const name of ['hostdev', 'tpm', 'filesystem', 'shmem', 'nvdimm']) {
    if (all(devices, name).length > 0) {
      throw unsupported(`devices/${name}`, 'it', 'it would be missing where the machine is started');
    }
  }
  const type = machineType(only(os, 'type'));
  const parsed = definitionSchema.safeParse({
    cpus: cpus(only(domain, 'vcpu')),
    memoryBytes: memoryBytes(only(domain, 'memory')),
    firmware: firmware(os),
    type,
    ...disks(devices, diskNames),
    nics: all(devices, 'interface').map((nic) => nicOf(nic, type)),
  });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw malformed('domain', `${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'out of bounds'}`);
}

function rootOf(text: string): Element {
  // A document type can define entities, and nothing a domain says needs any.
  if (/<!(?:DOCTYPE|ENTITY)/i.test(text)) throw unsupported('!DOCTYPE', 'it', 'a domain has none');
  let root: Element | null;
  try {
    root = new DOMParser({ onError: onErrorStopParsing }).parseFromString(text, 'text/xml').documentElement;
  } catch (error) {
    throw malformed('domain', messageOf(error).split('\n')[0] ?? '');
  }
  if (root?.tagName !== 'domain') {
    throw malformed(root?.tagName ?? 'domain', 'the outermost element of a libvirt domain is <domain>');
  }
  return root;
}

function all(parent: Element, name: string): Element[] {
  return [...parent.children].filter(({ tagName }) => tagName === name);
}

function only(parent: Element, name: string): Element {
  const [element, second] = all(parent, name);
  if (!element) throw malformed(parent.tagName, `has no <${name}>`);
  if (second) throw malformed(parent.tagName, `has more than one <${name}>`);
  return element;
}

const textOf = (element: Element): string => (element.textContent ?? '').trim();

function wholeNumber(element: Element, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw malformed(element.tagName, `${JSON.stringify(text)} is not a whole number`);
  return Number(text);
}

function cpus(vcpu: Element): number {
  return wholeNumber(vcpu, vcpu.getAttribute('current') ?? textOf(vcpu));
}

/** libvirt's units: powers of 1,024 by default, of 1,000 with a B alone. */
const units: Readonly<Record<string, number>> = {
  ...{ b: 1, bytes: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 },
  ...{ k: 1024, KiB: 1024, M: MiB, MiB, G: GiB, GiB, T: 1024 * GiB, TiB: 1024 * GiB },
};

/** Rounded up to whole MiB, which is what a machine can have. */
function memoryBytes(memory: Element): number {
  const name = memory.getAttribute('unit') ?? 'KiB';
  const unit = Object.hasOwn(units, name) ? units[name] : undefined;
  if (unit === undefined) throw malformed('memory', `unit ${JSON.stringify(name)} is not known`);
  return Math.ceil((wholeNumber(memory, textOf(memory)) * unit) / MiB) * MiB;
}

function firmware(os: Element): string {
  const asked = os.getAttribute('firmware');
  if (asked !== null) {
    if (asked !== 'efi' && asked !== 'bios') throw unsupported('os', `firmware ${asked}`, 'only efi and bios are');
    return asked === 'efi' ? 'uefi' : 'bios';
  }
  return all(os, 'loader').some((loader) => loader.getAttribute('type') === 'pflash') ? 'uefi' : 'bios';
}

/** `pc-i440fx-9.0` → `pc`: a version of the chipset that the recovery site may not have is left to it. */
function machineType(type: Element): MachineDefinition['type'] {
  if (textOf(type) !== 'hvm') throw unsupported('os/type', textOf(type), 'only hvm is');
  const arch = type.getAttribute('arch') ?? 'x86_64';
  if (arch !== 'x86_64' && arch !== 'i686') throw unsupported('os/type', `arch ${arch}`, 'only x86_64 is');
  const machine = type.getAttribute('machine') ?? 'pc';
  const found = machineTypes.find((name) => machine === name || machine.startsWith(`pc-${name}-`));
  if (found) return found;
  if (machine.startsWith('pc-i440fx-')) return 'pc';
  throw unsupported('os/type', `machine ${machine}`, 'only pc and q35 are');
}

function disks(devices: Element, names: readonly string[]): { readonly bus: string; readonly disks: string[] } {
  const found = all(devices, 'disk')
    .filter((disk) => !['cdrom', 'floppy'].includes(disk.getAttribute('device') ?? 'disk'))
    .map((disk, no) => diskOf(disk, no, names));
  const known = found.filter(({ name }) => name !== undefined);
  if (known.length === 0 && found.length !== names.length) {
    throw malformed('devices/disk', `which of its ${found.length} disks is ${names.join(', ')} can not be told`);
  }
  const named = known.length > 0 ? known : found.map((disk, at) => ({ ...disk, name: names[at] }));
  const [bus, other] = new Set(named.map((disk) => disk.bus));
  if (bus === undefined || other !== undefined) {
    throw unsupported('disk/target', `bus ${bus ?? ''} beside ${other ?? ''}`, 'all disks are on one bus');
  }
  const inOrder = [...named].sort((a, b) => a.order - b.order || a.no - b.no);
  return { bus, disks: inOrder.flatMap(({ name }) => name ?? []) };
}

function diskOf(disk: Element, no: number, names: readonly string[]) {
  const device = disk.getAttribute('device') ?? 'disk';
  if (device !== 'disk') throw unsupported('devices/disk', `device ${device}`, 'only disk is');
  const target = only(disk, 'target');
  const dev = target.getAttribute('dev') ?? '';
  const bus = target.getAttribute('bus') ?? busOf(dev);
  if (!diskBuses.some((each) => each === bus)) {
    throw unsupported('disk/target', `bus ${bus}`, `only ${diskBuses.join(', ')} are`);
  }
  const [serial] = all(disk, 'serial').map(textOf);
  const [boot] = all(disk, 'boot');
  const order = boot ? wholeNumber(boot, boot.getAttribute('order') ?? '') : Infinity;
  const name = [serial, dev].find((each) => each !== undefined && names.includes(each));
  return { no, bus, name, order: Math.min(order, Number.MAX_SAFE_INTEGER) };
}

/** What libvirt takes when no bus is named. */
function busOf(dev: string): string {
  if (dev.startsWith('vd')) return 'virtio';
  return dev.startsWith('sd') ? 'scsi' : 'ide';
}

function nicOf(nic: Element, machine: MachineDefinition['type']): Nic {
  const [mac] = all(nic, 'mac').map((each) => each.getAttribute('address')?.toLowerCase());
  const [asked] = all(nic, 'model').map((each) => each.getAttribute('type'));
  const name = (asked ?? (machine === 'q35' ? 'e1000e' : 'rtl8139')).replace(/-(?:non-)?transitional$/, '');
  const model = nicModels.find((each) => each === name);
  if (!model) throw unsupported('interface/model', name, `only ${nicModels.join(', ')} are`);
  const [source] = all(nic, 'source');
  const network = source?.getAttribute('network') ?? source?.getAttribute('bridge') ?? source?.getAttribute('dev');
  return { model, ...(mac ? { mac } : {}), ...(network ? { network } : {}) };
}

function malformed(element: string, what: string): Problem {
  return new Problem('bad-argument', `<${element}>: ${what}`, {
    remedy: `pass what virsh dumpxml prints, or name the machine with --cpus, --memory, --firmware, --bus and --nic`,
  });
}

function unsupported(element: string, what: string, why: string): Problem {
  return new Problem('bad-argument', `<${element}>: ${what} is not supported (${why})`, {
    remedy: 'take it out of the file, or name the machine with --cpus, --memory, --firmware, --bus and --nic',
  });
}
