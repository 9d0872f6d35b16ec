/**
 * A disk a machine starts from as it does in life: firmware, boot loader in the first sectors, kernel and first file system on ext4. Once
 * started it tells on its serial console what is in the file `marker` on that file system.
 *
 * GRUB needs no installing for that: its first sector loads what follows at sector 1, which is the image `grub-mkimage` made, with the commands
 * to run inside.
 */
import { mkdir, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { MiB } from '../../src/kit/sizes.ts';
import { requireTool, runToolOk } from '../tools.ts';
import { firstFileSystem, partsDirectory, requireParts } from './parts.ts';

/** Of the disk. Whoever makes it longer finds nothing above: no partition reaches there. */
export const bootableBytes = 48 * MiB;
const sector = 512;
const partitionStart = 1 * MiB;

/** Whether such a disk can be made and started here. */
export function requireBootable(...tools: readonly string[]): boolean {
  return requireTool('qemu-system-x86_64', 'busybox', 'mke2fs', 'debugfs', 'ldd', ...tools) && requireParts();
}

/** What the guest does beside telling its marker. */
export interface GuestServices {
  /** Runs the QEMU guest agent. */
  readonly agent?: boolean;
  /** Takes connections on this port of its network card, at this address. */
  readonly listen?: { readonly address: string; readonly port: number };
  /** Never tells its marker, but this. */
  readonly instead?: string;
  /** Keeps a journal on its disk, told of as `journal: found <lines>`, then `journal: wrote <line>` when that line is durable. */
  readonly journal?: boolean;
}

/** Numbers of its lines go on where the file ends. */
const keepJournal = `touch /mnt/journal
n=$(wc -l < /mnt/journal)
[ $n = 0 ] || [ "$(tail -n 1 /mnt/journal)" = "line $n" ] || echo 'trouble: journal'
echo "journal: found $n"
while true; do
  n=$((n + 1))
  echo "line $n" >> /mnt/journal && sync && echo "journal: wrote $n" || echo "trouble: line $n"
  sleep 0.1
done`;

function init({ agent, listen, instead, journal }: GuestServices): string {
  const told = instead === undefined ? 'echo "marker: $(cat /mnt/marker)"' : `echo '${instead}'`;
  return [
    "mount -t ext4 /dev/vda1 /mnt || echo 'trouble: mount'",
    ...(listen ? [`ifconfig eth0 ${listen.address} up`, `httpd -p ${listen.port} -h /mnt`] : []),
    ...(agent ? ['mount -t sysfs sys /sys', 'qemu-ga -m virtio-serial -p /dev/vport*p1 &'] : []),
    told,
    journal ? keepJournal : 'while true; do sleep 1; done',
  ].join('\n');
}

/** The commands in GRUB's image. */
const commands = `set root=(hd0,msdos1)
linux /boot/vmlinuz console=ttyS0 quiet panic=-1
initrd /boot/first.cpio
boot
`;

/** Makes the disk; `scratch` is a directory of its own for what it is made from. */
export async function makeBootable(
  image: string,
  marker: string,
  scratch: string,
  services: GuestServices = {},
): Promise<void> {
  const tree = path.join(scratch, 'tree');
  const loader = path.join(scratch, 'loader');
  await mkdir(path.join(tree, 'boot'), { recursive: true });
  await Promise.all([
    writeFile(path.join(tree, 'marker'), `${marker}\n`),
    writeFile(path.join(tree, 'boot/vmlinuz'), await readFile(`${partsDirectory}vmlinuz`)),
    writeFile(
      path.join(tree, 'boot/first.cpio'),
      await firstFileSystem(services.agent ? ['qemu-ga'] : [], init(services)),
    ),
    writeFile(path.join(scratch, 'commands'), commands),
  ]);
  const words = ['-O', 'i386-pc', '-d', partsDirectory, '-o', loader, '-c', path.join(scratch, 'commands'), '-p', '/'];
  await runToolOk(`${partsDirectory}grub-mkimage`, [...words, 'biosdisk', 'part_msdos', 'ext2', 'linux']);
  await writeFile(image, '');
  await truncate(image, bootableBytes);
  const offset = ['-E', `offset=${partitionStart}`, '-d', tree];
  const size = `${(bootableBytes - partitionStart) / 1024}k`;
  await runToolOk('mke2fs', ['-q', '-F', '-t', 'ext4', '-J', 'size=4', ...offset, image, size]);
  const disk = await open(image, 'r+');
  try {
    await disk.write(await firstSector(), 0, sector, 0);
    const code = await readFile(loader);
    await disk.write(code, 0, code.byteLength, sector);
  } finally {
    await disk.close();
  }
  await rm(scratch, { recursive: true });
}

/** GRUB's first code and a table of one partition. */
async function firstSector(): Promise<Buffer> {
  const record = Buffer.alloc(sector);
  (await readFile(`${partsDirectory}boot.img`)).copy(record, 0, 0, 440);
  const partition = 446;
  record[partition] = 0x80;
  record[partition + 4] = 0x83;
  record.writeUInt32LE(partitionStart / sector, partition + 8);
  record.writeUInt32LE((bootableBytes - partitionStart) / sector, partition + 12);
  record.writeUInt16BE(0x55aa, 510);
  return record;
}
