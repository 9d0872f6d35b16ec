/**
 * A disk a UEFI machine starts from by the default path, as after a failover, when no variable of the firmware names another one: boot loader, its
 * configuration, kernel and first file system on FAT. Once started it tells its marker on its serial console.
 */
import { existsSync } from 'node:fs';
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { requireTool, runToolOk } from '../tools.ts';
import { firstFileSystem, partsDirectory, requireParts } from './parts.ts';

const loader = `${partsDirectory}grubx64.efi`;

/** Whether such a disk can be made and started here. */
export function requireUefi(...tools: readonly string[]): boolean {
  if (!requireTool('qemu-system-x86_64', 'qemu-img', 'busybox', ...tools) || !requireParts()) return false;
  if (existsSync(loader) && existsSync('/usr/share/OVMF')) return true;
  const text = 'no UEFI firmware, or no boot loader for it; scripts/test fetches both (Debian: ovmf)';
  if (process.env['CI'] === 'true') throw new Error(text);
  process.stderr.write(`SKIPPED tests: ${text}\n`);
  return false;
}

/** Where Debian's boot loader looks. */
const configuration = 'EFI/debian/grub.cfg';

/** The commands in it. */
const commands = `linux /vmlinuz console=ttyS0 quiet panic=-1
initrd /first.cpio
boot
`;

/** Makes the disk, half a GiB and sparse; `scratch` is a directory of its own for what it is made from. */
export async function makeUefiDisk(image: string, marker: string, scratch: string): Promise<void> {
  await mkdir(path.join(scratch, 'EFI/BOOT'), { recursive: true });
  await mkdir(path.join(scratch, path.dirname(configuration)));
  const init = `[ -d /sys/firmware/efi ] || mount -t sysfs sys /sys
[ -d /sys/firmware/efi ] && echo 'marker: ${marker}'
while true; do sleep 1; done`;
  await Promise.all([
    copyFile(loader, path.join(scratch, 'EFI/BOOT/BOOTX64.EFI')),
    copyFile(`${partsDirectory}vmlinuz`, path.join(scratch, 'vmlinuz')),
    writeFile(path.join(scratch, 'first.cpio'), await firstFileSystem([], init)),
    writeFile(path.join(scratch, configuration), commands),
  ]);
  await runToolOk('qemu-img', ['convert', '-f', 'vvfat', '-O', 'raw', `fat:fat-type=16:${scratch}`, image]);
  await rm(scratch, { recursive: true });
}
