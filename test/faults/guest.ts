/**
 * A running machine for tests: QEMU without acceleration, a distribution's kernel, a shell, and `sqlite3` on ext4 on the disk under test, which
 * it reaches over NBD and waits for when it is away (`reconnect-delay`).
 *
 * The guest inserts row after row, each a transaction of its own made durable before it is told of on the console (`committed <n>`), with
 * other files written beside. Whatever goes wrong in there is told too: `trouble`.
 */
import { writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { firstFileSystem, partsDirectory, requireParts } from '../guest/parts.ts';
import { RunningGuest } from '../guest/running.ts';
import { requireTool } from '../tools.ts';

/** Whether this machine can run a guest. */
export function requireGuest(): boolean {
  if (!requireTool('qemu-system-x86_64', 'busybox', 'sqlite3', 'mke2fs', 'e2fsck', 'debugfs', 'ldd')) return false;
  return requireParts();
}

/** The guest's first and only program. `seq` numbers go on where the table ends, so it survives its own restart. */
const init = `mount -t ext4 /dev/vda /mnt || echo 'trouble: mount'
sqlite3 /mnt/db 'pragma journal_mode=wal; create table rows(n integer primary key, data blob)' || echo 'trouble: create'
sync
n=1
while true; do
  sqlite3 /mnt/db "pragma synchronous=full; insert into rows values($n, randomblob(3000))" && echo "committed $n" || echo "trouble: insert $n"
  dd if=/dev/urandom of=/mnt/file$((n % 7)) bs=4k count=$((n % 9 + 1)) 2>/dev/null || echo "trouble: file $n"
  n=$((n + 1))
done
`;

interface Commit {
  readonly row: number;
  /** Wall clock when the console told of it, a little after it was durable. */
  readonly toldMs: number;
}

export class Guest {
  readonly commits: Commit[] = [];
  /** Lines of the console that tell of an error. */
  readonly trouble: string[] = [];
  readonly #running: RunningGuest;

  private constructor(words: readonly string[]) {
    const hear = (line: string): void => {
      this.#hear(line);
    };
    this.#running = new RunningGuest('qemu-system-x86_64', words, hear, (text) => this.trouble.push(text));
  }

  /** Boots with the disk behind an NBD socket. `directory`: for the guest's first file system. */
  static async boot(directory: string, socket: string, exportName: string): Promise<Guest> {
    const initrd = path.join(directory, 'guest.cpio');
    await writeFile(initrd, await firstFileSystem(['sqlite3'], init));
    const disk = {
      driver: 'nbd',
      'node-name': 'disk',
      server: { type: 'unix', path: socket },
      export: exportName,
      'reconnect-delay': 30,
    };
    return new Guest([
      ...['-accel', 'tcg', '-m', '192', '-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
      ...['-kernel', `${partsDirectory}vmlinuz`, '-initrd', initrd, '-append', 'console=ttyS0 quiet panic=-1'],
      ...['-blockdev', JSON.stringify(disk), '-device', 'virtio-blk-pci,drive=disk'],
    ]);
  }

  get console(): string {
    return this.#running.console;
  }

  get rows(): number {
    return this.commits.at(-1)?.row ?? 0;
  }

  /** Pulls the plug. */
  stop(): Promise<void> {
    return this.#running.stop();
  }

  #hear(line: string): void {
    const row = /^committed (\d+)$/.exec(line)?.[1];
    if (row !== undefined) this.commits.push({ row: Number(row), toldMs: Date.now() });
    if (/trouble|error|EXT4-fs (?:warning|error)|panic/i.test(line)) this.trouble.push(line);
  }
}
