/**
 * What Linux knows of a block device that tells whether it is the one it was, and whether anybody wrote to it. The times of its node say
 * neither: they are those of a name in /dev.
 *
 * Invariants:
 *  1. The disk as a whole is asked: a partition's sectors can be written through the disk it is part of.
 *  2. What can not be known is not guessed: without a sequence number, or with the counting of I/O switched off, there is no trace.
 *
 * Limits: what changes below the device (the file of a loop device, the volumes a mapped device is made of) is not seen.
 */
import { existsSync, readFileSync } from 'node:fs';

export interface DeviceTrace {
  /** No other disk has it that was attached since this boot, nor, all but certainly, one of any other boot. Never 0; 64 bits. */
  readonly identity: bigint;
  /** Sectors of 512 bytes written and discarded since the disk was attached, whoever did it; counted when they have reached it. */
  readonly sectorsWritten: {
    /** Through this device: of a partition its own. */
    readonly here: bigint;
    /** Of the whole disk: nothing can change the content of a partition without it. */
    readonly disk: bigint;
  };
}

/** Fields of /sys/block/…/stat (Documentation/block/stat.rst in Linux). */
const writeSectors = 6;
const discardSectors = 13;

const textOf = (path: string): string => readFileSync(path, 'latin1').trim();

/** `device` is its number, as st_rdev has it. Null where the system does not say (invariant 2). */
export function deviceTraceSync(device: bigint): DeviceTrace | null {
  try {
    const own = directoryOf(device);
    const disk = existsSync(`${own}/partition`) ? `${own}/..` : own;
    if (textOf(`${disk}/queue/iostats`) === '0') return null;
    const boot = BigInt(`0x${textOf('/proc/sys/kernel/random/boot_id').replaceAll('-', '').slice(0, 16)}`);
    const identity = BigInt.asUintN(64, boot + BigInt(textOf(`${disk}/diskseq`)));
    return { identity: identity || 1n, sectorsWritten: { here: sectorsWritten(own), disk: sectorsWritten(disk) } };
  } catch {
    return null;
  }
}

function directoryOf(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xfff_ff00n);
  return `/sys/dev/block/${major}:${minor}`;
}

function sectorsWritten(directory: string): bigint {
  const fields = textOf(`${directory}/stat`).split(/ +/);
  return BigInt(fields[writeSectors] ?? '') + BigInt(fields[discardSectors] ?? '');
}
