/**
 * A running machine for tests: QEMU without acceleration, a distribution's kernel, a shell, and `sqlite3` on ext4 on the disk under test, which
 * it reaches over NBD and waits for when it is away (`reconnect-delay`).
 *
 * The guest inserts row after row, each a transaction of its own made durable before it is told of on the console (`committed <n>`), with
 * other files written beside. Whatever goes wrong in there is told too: `trouble`.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { requireTool, runToolOk } from '../tools.ts';

/** Where `scripts/test` unpacks it. */
const kernelDirectory = fileURLToPath(new URL('../../node_modules/.cache/tidemark/kernel/', import.meta.url));
const modules = ['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk'];

/** Whether this machine can run a guest. */
export function requireGuest(): boolean {
  if (!requireTool('qemu-system-x86_64', 'busybox', 'sqlite3', 'mke2fs', 'e2fsck', 'debugfs', 'ldd')) return false;
  if (existsSync(`${kernelDirectory}vmlinuz`)) return true;
  if (process.env['CI'] === 'true') throw new Error(`no kernel for a guest in ${kernelDirectory}: run scripts/test`);
  process.stderr.write('SKIPPED tests: no kernel for a guest; scripts/test fetches one\n');
  return false;
}

/** The guest's first and only program. `seq` numbers go on where the table ends, so it survives its own restart. */
const init = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
${modules.map((name) => `insmod /modules/${name}.ko`).join('\n')}
mount -t ext4 /dev/vda /mnt || echo 'trouble: mount'
sqlite3 /mnt/db 'pragma journal_mode=wal; create table rows(n integer primary key, data blob)' || echo 'trouble: create'
sync
n=1
while true; do
  sqlite3 /mnt/db "pragma synchronous=full; insert into rows values($n, randomblob(3000))" && echo "committed $n" || echo "trouble: insert $n"
  dd if=/dev/urandom of=/mnt/file$((n % 7)) bs=4k count=$((n % 9 + 1)) 2>/dev/null || echo "trouble: file $n"
  n=$((n + 1))
done
`;

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

async function programFile(name: string): Promise<string> {
  return (await runToolOk('which', [name])).trim();
}

/** First file system of the guest: `init`, a shell, `sqlite3` with the libraries it names, and the kernel's modules for its disk. */
async function firstFileSystem(): Promise<Buffer> {
  const [busybox, sqlite] = await Promise.all([programFile('busybox'), programFile('sqlite3')]);
  const libraries = (await runToolOk('ldd', [sqlite])).match(/\/\S+/g) ?? [];
  const files = new Map([
    ['bin/busybox', busybox],
    ['bin/sqlite3', sqlite],
    ...libraries.map((file) => [file.slice(1), file] as const),
    ...modules.map((name) => [`modules/${name}.ko`, `${kernelDirectory}${name}.ko`] as const),
  ]);
  const directories = new Set(['bin', 'dev', 'mnt', 'proc']);
  for (const name of files.keys())
    for (let at = path.dirname(name); at !== '.'; at = path.dirname(at)) directories.add(at);
  const programs = [...files].map(async ([name, file]) => ({ name, mode: programMode, content: await readFile(file) }));
  return cpio([
    ...[...directories].sort().map((name) => ({ name, mode: directoryMode, content: Buffer.alloc(0) })),
    ...(await Promise.all(programs)),
    { name: 'init', mode: programMode, content: Buffer.from(init) },
  ]);
}

interface Commit {
  readonly row: number;
  /** Wall clock when the console told of it, a little after it was durable. */
  readonly toldMs: number;
}

export class Guest {
  readonly commits: Commit[] = [];
  /** Lines of the console that tell of an error. */
  readonly trouble: string[] = [];
  console = '';
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    let line = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      this.console += chunk.toString();
      const lines = (line + chunk.toString()).split(/\r?\n/);
      line = lines.pop() ?? '';
      for (const each of lines) this.#hear(each);
    });
    child.stderr?.on('data', (chunk: Buffer) => this.trouble.push(chunk.toString()));
    this.#ended = new Promise((resolve) => child.on('close', () => resolve()));
  }

  /** Boots with the disk behind an NBD socket. `directory`: for the guest's first file system. */
  static async boot(directory: string, socket: string, exportName: string): Promise<Guest> {
    const initrd = path.join(directory, 'guest.cpio');
    await writeFile(initrd, await firstFileSystem());
    const disk = {
      driver: 'nbd',
      'node-name': 'disk',
      server: { type: 'unix', path: socket },
      export: exportName,
      'reconnect-delay': 30,
    };
    const words = [
      ...['-accel', 'tcg', '-m', '192', '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
      ...['-kernel', `${kernelDirectory}vmlinuz`, '-initrd', initrd, '-append', 'console=ttyS0 quiet panic=-1'],
      ...['-blockdev', JSON.stringify(disk), '-device', 'virtio-blk-pci,drive=disk'],
    ];
    const child = spawn('qemu-system-x86_64', words, { stdio: ['ignore', 'pipe', 'pipe'] });
    const guest = new Guest(child);
    process.on('exit', () => child.kill('SIGKILL'));
    return guest;
  }

  get rows(): number {
    return this.commits.at(-1)?.row ?? 0;
  }

  /** Pulls the plug. */
  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }

  #hear(line: string): void {
    const row = /^committed (\d+)$/.exec(line)?.[1];
    if (row !== undefined) this.commits.push({ row: Number(row), toldMs: Date.now() });
    if (/trouble|error|EXT4-fs (?:warning|error)|panic/i.test(line)) this.trouble.push(line);
  }
}
