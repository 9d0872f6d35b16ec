/**
 * What machines for tests are made of: a distribution's kernel, a first file system with a shell and what programs a test needs, and a boot
 * loader. `scripts/test` unpacks kernel and boot loader.
 */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { runToolOk } from '../tools.ts';

export const partsDirectory = fileURLToPath(new URL('../../node_modules/.cache/tidemark/guest/', import.meta.url));

/** In the order they depend on one another: any bus, disk, serial ports, network. */
const modules = [
  ...['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk'],
  ...['virtio_console', 'failover', 'net_failover', 'virtio_net'],
];

/** Whether kernel and boot loader are there. With `CI=true` it throws when they are not. */
export function requireParts(): boolean {
  if (existsSync(`${partsDirectory}grub-mkimage`)) return true;
  if (process.env['CI'] === 'true') throw new Error(`no kernel for a guest in ${partsDirectory}: run scripts/test`);
  process.stderr.write('SKIPPED tests: no kernel for a guest; scripts/test fetches one\n');
  return false;
}

interface ArchiveEntry {
  readonly name: string;
  /** Type and permissions, as `stat` says them. */
  readonly mode: number;
  readonly content: Buffer;
}

const directoryMode = 0o040755;
const programMode = 0o100755;

/** An archive in the "new ASCII" format of cpio, the only one a kernel unpacks. */
function cpio(entries: readonly ArchiveEntry[]): Buffer {
  const pad = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);
  const parts = [...entries, { name: 'TRAILER!!!', mode: 0, content: Buffer.alloc(0) }].flatMap((entry, at) => {
    const { name, mode, content } = entry;
    const fields = [at + 1, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    return [Buffer.from(header), pad(header.length), content, pad(content.length)];
  });
  return Buffer.concat(parts);
}

/** First lines of every guest's first program: its commands, its devices. */
const preamble = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
${modules.map((name) => `insmod /modules/${name}.ko`).join('\n')}
`;

/**
 * First file system of a guest: a shell, the named programs with the libraries they name, the kernel's modules.
 * @param init shell commands of its first and only program, which must not end.
 */
export async function firstFileSystem(programs: readonly string[], init: string): Promise<Buffer> {
  const where = async (name: string): Promise<string> => (await runToolOk('which', [name])).trim();
  const libraries = async (file: string): Promise<string[]> => (await runToolOk('ldd', [file])).match(/\/\S+/g) ?? [];
  const found = await Promise.all(programs.map(where));
  const files = new Map([
    ['bin/busybox', await where('busybox')],
    ...found.map((file) => [`bin/${path.basename(file)}`, file] as const),
    ...(await Promise.all(found.map(libraries))).flat().map((file) => [file.slice(1), file] as const),
    ...modules.map((name) => [`modules/${name}.ko`, `${partsDirectory}${name}.ko`] as const),
  ]);
  const directories = new Set(['bin', 'dev', 'mnt', 'proc', 'sys', 'run', 'var', 'var/run']);
  for (const name of files.keys())
    for (let at = path.dirname(name); at !== '.'; at = path.dirname(at)) directories.add(at);
  const contents = [...files].map(async ([name, file]) => ({ name, mode: programMode, content: await readFile(file) }));
  return cpio([
    ...[...directories].sort().map((name) => ({ name, mode: directoryMode, content: Buffer.alloc(0) })),
    ...(await Promise.all(contents)),
    { name: 'init', mode: programMode, content: Buffer.from(preamble + init) },
  ]);
}
