/**
 * A machine as a libvirt domain, for those whose recovery site is run by libvirt: its definition, its disks behind NBD. Read back by
 * `domain-xml-read.ts`; the format is libvirt's (https://libvirt.org/formatdomain.html).
 *
 * 1. Built as a tree and written by a serializer, so that whatever a name holds stays text.
 * 2. Isolated by default: network cards are there, so that the guest finds what it knows, with their links down and on no network of the host.
 */
import { DOMImplementation, type Document, type Element, XMLSerializer } from '@xmldom/xmldom';
import { limits } from '../limits.ts';
import type { MachineDefinition, Nic } from '../wire/definition.ts';
import { inBootOrder, type MachineDisk, parseNbdUri } from './qemu.ts';

interface Domain {
  readonly name: string;
  readonly definition: MachineDefinition;
  readonly disks: readonly MachineDisk[];
  /** `isolated`, or cards on the networks the definition names (those without a name on a private one). */
  readonly network: 'isolated' | 'connected';
  readonly accelerated: boolean;
}

/** An element: name, attributes, and text or elements in it. */
type Node = readonly [
  name: string,
  attributes: Readonly<Record<string, string | number>>,
  content?: string | readonly Node[],
];

/** @throws Problem `bad-argument`: an address of a disk is not understood. */
export function domainXml(domain: Domain): string {
  const { name, definition, accelerated } = domain;
  const { cpus, memoryBytes, firmware, type } = definition;
  const document = new DOMImplementation().createDocument(null, '');
  const tree = elementOf(document, 0, [
    'domain',
    { type: accelerated ? 'kvm' : 'qemu' },
    [
      ['name', {}, name],
      ['memory', { unit: 'KiB' }, String(memoryBytes / 1024)],
      ['vcpu', {}, String(cpus)],
      ['os', firmware === 'uefi' ? { firmware: 'efi' } : {}, [['type', { arch: 'x86_64', machine: type }, 'hvm']]],
      [
        'features',
        {},
        [
          ['acpi', {}],
          ['apic', {}],
        ],
      ],
      ['cpu', { mode: accelerated ? 'host-passthrough' : 'maximum' }],
      ['clock', { offset: 'utc' }],
      ['devices', {}, devices(domain)],
    ],
  ]);
  document.appendChild(tree);
  return `${new XMLSerializer().serializeToString(document, { requireWellFormed: true })}\n`;
}

function devices({ definition, disks, network }: Domain): Node[] {
  const { bus, nics } = definition;
  return [
    ...inBootOrder(definition, disks).map((disk, no) => diskNode(definition, disk, no)),
    ...(bus === 'scsi' ? [['controller', { type: 'scsi', index: 0, model: 'virtio-scsi' }] as const] : []),
    ...nics.map((nic) => nicNode(nic, network)),
    ['serial', { type: 'pty' }],
    ['console', { type: 'pty' }, [['target', { type: 'serial', port: 0 }]]],
    ['channel', { type: 'unix' }, [['target', { type: 'virtio', name: 'org.qemu.guest_agent.0' }]]],
    ['graphics', { type: 'vnc', autoport: 'yes', listen: '127.0.0.1' }],
    ['video', {}, [['model', { type: 'vga' }]]],
  ];
}

const devicePrefix = { virtio: 'vd', scsi: 'sd', sata: 'sd', ide: 'hd' } as const;

/** 0 → `a`, 25 → `z`, 26 → `aa`. */
function letters(no: number): string {
  const head = no < 26 ? '' : letters(Math.floor(no / 26) - 1);
  return head + String.fromCharCode('a'.charCodeAt(0) + (no % 26));
}

function diskNode({ bus }: MachineDefinition, { name, uri }: MachineDisk, no: number): Node {
  const address = parseNbdUri(uri);
  const host =
    address.transport === 'unix'
      ? { transport: 'unix', socket: address.path }
      : { transport: 'tcp', name: address.host, port: address.port };
  // Where the certificates lie is a setting of libvirt's (`nbd_tls_x509_cert_dir`), not of the domain.
  const tls = 'tls' in address ? { tls: 'yes' } : {};
  const reconnect = ['reconnect', { delay: limits.recovery.failoverReconnectSeconds }] as const;
  return [
    'disk',
    { type: 'network', device: 'disk' },
    [
      ['driver', { name: 'qemu', type: 'raw' }],
      ['source', { protocol: 'nbd', name: address.export, ...tls }, [['host', host], reconnect]],
      ['target', { dev: `${devicePrefix[bus]}${letters(no)}`, bus }],
      ['serial', {}, name],
      ['boot', { order: no + 1 }],
    ],
  ];
}

function nicNode({ mac, model, network }: Nic, mode: Domain['network']): Node {
  const connected = mode === 'connected' && network !== undefined;
  return [
    'interface',
    { type: connected ? 'network' : 'user' },
    [
      ...(mac === undefined ? [] : [['mac', { address: mac }] as const]),
      ...(connected ? [['source', { network }] as const] : []),
      ['model', { type: model }],
      ...(mode === 'isolated' ? [['link', { state: 'down' }] as const] : []),
    ],
  ];
}

function elementOf(document: Document, depth: number, [name, attributes, content = []]: Node): Element {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (typeof content === 'string') {
    element.appendChild(document.createTextNode(content));
    return element;
  }
  const indent = `\n${'  '.repeat(depth)}`;
  for (const child of content) {
    element.appendChild(document.createTextNode(`${indent}  `));
    element.appendChild(elementOf(document, depth + 1, child));
  }
  if (content.length > 0) element.appendChild(document.createTextNode(indent));
  return element;
}
