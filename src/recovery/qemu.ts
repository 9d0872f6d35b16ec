/**
 * A machine as words of a `qemu-system-x86_64` command line: its definition, its disks behind NBD. Pure; who starts it (`boot.ts`), or prints it
 * for people (`failover`), adds what is its own: console, screen, monitor, accelerator.
 *
 * 1. Isolated by default: without `network` the machine has no network card at all. With it, its cards hang on a network of their own that has
 *    no way out and no way in but one forwarded port (`restrict=on`, QEMU's user network).
 * 2. Nothing is QEMU's choice: `-nodefaults`, every device is named, disks carry their boot order and, as serial number, their name.
 * 3. A disk whose server dies is waited for: requests go on when it is there again.
 * 4. Whatever may hold a comma (paths, names) travels as JSON, whose quoting is the shell's business only.
 *
 * Words from QEMU's `qemu-system-x86_64(1)` and `qemu-block-drivers(7)`; NBD URIs from the NBD project's `doc/uri.md`.
 */
import { Problem } from '../kit/problem.ts';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import type { MachineDefinition, Nic } from '../wire/definition.ts';

export const qemuProgram = 'qemu-system-x86_64';

export interface MachineDisk {
  readonly name: string;
  /** `nbd+unix:///name?socket=/path`, `nbd://host:port/name` or `nbds://host:port/name?tls-certificates=/directory`. */
  readonly uri: string;
}

/** Files of a firmware that is not built into QEMU. */
export interface UefiFiles {
  readonly code: string;
  /** Its variables: a copy of this machine's own, written to. What the source kept there is not replicated. */
  readonly variables: string;
}

/** Guest's side of the isolated network: QEMU's own when left out, where a guest that asks by DHCP gets 10.0.2.15. */
interface GuestAddress {
  readonly address: string;
  readonly prefix: number;
}

export interface IsolatedNetwork {
  /** Reached through a port of the loopback interface that the kernel chooses; left out: the machine is not reached at all. */
  readonly forward?: { readonly port: number; readonly guest?: GuestAddress };
}

export interface MachineToRun {
  /** What it is called in lists of processes. */
  readonly title: string;
  readonly definition: MachineDefinition;
  readonly disks: readonly MachineDisk[];
  readonly uefi?: UefiFiles;
  readonly network?: IsolatedNetwork;
}

export type NbdAddress =
  | { readonly export: string; readonly transport: 'unix'; readonly path: string }
  | {
      readonly export: string;
      readonly transport: 'tcp';
      readonly host: string;
      readonly port: number;
      /** Directory of a client's certificates; left out: without TLS. */
      readonly tls?: string;
    };

const nbdPort = 10_809;

/** @throws Problem `bad-argument`: not one of the forms above. */
export function parseNbdUri(uri: string): NbdAddress {
  const url = URL.canParse(uri) ? new URL(uri) : null;
  const name = decodeURIComponent(url?.pathname.replace(/^\//, '') ?? '');
  const path = url?.searchParams.get('socket');
  if (url?.protocol === 'nbd+unix:' && path) return { export: name, transport: 'unix', path };
  const tls = url?.protocol === 'nbds:' ? url.searchParams.get('tls-certificates') : null;
  if (url && url.hostname !== '' && (url.protocol === 'nbd:' || tls)) {
    const host = url.hostname.replace(/^\[|\]$/g, '');
    return { export: name, transport: 'tcp', host, port: Number(url.port || nbdPort), ...(tls ? { tls } : {}) };
  }
  throw new Problem('bad-argument', `${uri} is no NBD address that a machine can be started on`, {
    remedy:
      'use nbd+unix:///NAME?socket=PATH, nbd://HOST:PORT/NAME or nbds://HOST:PORT/NAME?tls-certificates=DIRECTORY',
  });
}

/** Disks in the order the firmware tries them: those the definition names, then the others. */
export function inBootOrder<T extends { readonly name: string }>(
  { disks: order }: MachineDefinition,
  disks: readonly T[],
): T[] {
  const named = order.flatMap((name) => disks.find((disk) => disk.name === name) ?? []);
  return [...named, ...disks.filter((disk) => !named.includes(disk))];
}

/** Everything of the machine itself. @throws Problem `bad-argument`: an address of a disk is not understood. */
export function machineWords({ title, definition, disks, uefi, network }: MachineToRun): string[] {
  const { cpus, memoryBytes, type, nics } = definition;
  const flash = uefi ? ',pflash0=firmware-code,pflash1=firmware-variables' : '';
  return [
    ...['-name', title, '-nodefaults', '-machine', `${type}${flash}`, '-cpu', 'max', '-smp', String(cpus)],
    ...['-m', `${memoryBytes / MiB}M`, '-rtc', 'base=utc'],
    ...(uefi ? firmwareWords(uefi) : []),
    ...busWords(definition),
    ...tlsWords(disks),
    ...inBootOrder(definition, disks).flatMap((disk, no) => diskWords(definition, disk, no)),
    ...(network ? nics.flatMap((nic, no) => nicWords(nic, no, no === 0 ? network : {})) : ['-nic', 'none']),
  ];
}

function firmwareWords({ code, variables }: UefiFiles): string[] {
  const flash = (name: string, filename: string, readOnly: boolean): string[] => [
    '-blockdev',
    JSON.stringify({
      driver: 'raw',
      'node-name': name,
      'read-only': readOnly,
      file: { driver: 'file', filename },
    }),
  ];
  return [...flash('firmware-code', code, true), ...flash('firmware-variables', variables, false)];
}

/** The controller, where the machine has none of that kind. */
function busWords({ bus, type }: MachineDefinition): string[] {
  if (bus === 'scsi') return ['-device', 'virtio-scsi-pci,id=scsi'];
  return bus === 'sata' && type === 'pc' ? ['-device', 'ich9-ahci,id=sata'] : [];
}

/** What its client shows of TLS: an object of QEMU, and the name a disk calls it by. One does for all disks of a failover. */
function tlsObject(dir: string): { readonly id: string; readonly object: string } {
  const id = 'tls';
  const object = { 'qom-type': 'tls-creds-x509', id, endpoint: 'client', dir, 'verify-peer': true };
  return { id, object: JSON.stringify(object) };
}

function tlsWords(disks: readonly MachineDisk[]): string[] {
  const directories = disks.map(({ uri }) => parseNbdUri(uri)).flatMap((at) => ('tls' in at && at.tls ? [at.tls] : []));
  return [...new Set(directories)].flatMap((directory) => ['-object', tlsObject(directory).object]);
}

/** Where the disk is, for QEMU's block driver `nbd`. */
function nbdOptions(uri: string): Readonly<Record<string, unknown>> {
  const address = parseNbdUri(uri);
  if (address.transport === 'unix') return { server: { type: 'unix', path: address.path }, export: address.export };
  const { host, port, tls } = address;
  const server = { type: 'inet', host, port: String(port) };
  return { server, export: address.export, ...(tls ? { 'tls-creds': tlsObject(tls).id } : {}) };
}

/** What qemu-img and its like take, as words for a shell; null where they take the URI itself. @throws Problem `bad-argument`. */
export function qemuImageWords(uri: string): string | null {
  const address = parseNbdUri(uri);
  if (address.transport !== 'tcp' || address.tls === undefined) return null;
  const image = `json:${JSON.stringify({ driver: 'raw', file: { driver: 'nbd', ...nbdOptions(uri) } })}`;
  return ['--object', tlsObject(address.tls).object, image].map(quoted).join(' ');
}

function diskWords(definition: MachineDefinition, { name, uri }: MachineDisk, no: number): string[] {
  const node = `disk-${no}`;
  const nbd = {
    ...{ driver: 'nbd', 'node-name': node, ...nbdOptions(uri) },
    'reconnect-delay': limits.recovery.failoverReconnectSeconds,
  };
  const device = {
    ...deviceOf(definition, no),
    drive: node,
    // As long as a serial number may be on every bus.
    serial: name.slice(0, 20),
    bootindex: no + 1,
  };
  return [...['-blockdev', JSON.stringify(nbd)], ...['-device', JSON.stringify(device)]];
}

/** First PCI slot of disks; eight disks share a slot. The slots below it are left to everything else. */
const firstDiskSlot = 0x10;

function deviceOf({ bus, type }: MachineDefinition, no: number): Readonly<Record<string, unknown>> {
  switch (bus) {
    case 'virtio': {
      const slot = (firstDiskSlot + Math.floor(no / 8)).toString(16);
      return { driver: 'virtio-blk-pci', addr: `${slot}.${no % 8}`, multifunction: true };
    }
    case 'scsi':
      return { driver: 'scsi-hd', bus: 'scsi.0', 'scsi-id': no };
    case 'sata':
      return { driver: 'ide-hd', bus: `${type === 'pc' ? 'sata' : 'ide'}.${no}` };
    case 'ide':
      return { driver: 'ide-hd', bus: `ide.${Math.floor(no / 2)}`, unit: no % 2 };
  }
}

const nicDevices: Readonly<Record<Nic['model'], string>> = {
  virtio: 'virtio-net-pci',
  e1000: 'e1000',
  e1000e: 'e1000e',
  rtl8139: 'rtl8139',
  vmxnet3: 'vmxnet3',
};

function nicWords({ model, mac }: Nic, no: number, { forward }: IsolatedNetwork): string[] {
  const guest = forward?.guest;
  const words = [
    `user,id=net-${no},restrict=on`,
    ...(guest ? [`net=${guest.address}/${guest.prefix}`] : []),
    ...(forward ? [`hostfwd=tcp:127.0.0.1:0-${guest?.address ?? ''}:${forward.port}`] : []),
  ];
  const device = [nicDevices[model], `netdev=net-${no}`, ...(mac === undefined ? [] : [`mac=${mac}`])];
  return ['-netdev', words.join(','), '-device', device.join(',')];
}

/** One line for a shell, that starts the machine with a window and its console in the terminal. */
export function qemuCommand(machine: MachineToRun): string {
  const own = ['-accel', 'kvm', '-accel', 'tcg', '-vga', 'std', '-serial', 'mon:stdio'];
  return [qemuProgram, ...machineWords(machine), ...own].map(quoted).join(' ');
}

/** One word for a POSIX shell. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
