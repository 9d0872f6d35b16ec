/** The header slot of a change log: encode and decode side by side. Layout: FORMAT.md. */
import { Buffer } from 'node:buffer';
import { Problem } from '../kit/problem.ts';
import { digest } from '../kernels/hash.ts';
import type { FileFacts } from '../posix/files.ts';
import { checkBytes, logIdBytes, logVersion, slotBytes, slotCheckedBytes } from './log-layout.ts';

const magic = Buffer.from('TMHL', 'ascii');
const ownerAt = 88;
const ownerBytesMax = 1024;

export type LogState = 'clean' | 'open';

/** What the header remembers of the image, as of the last clean stop. */
export interface ImageRecord {
  readonly inode: bigint;
  readonly device: bigint;
  /** Another one whenever its content is: mtime and ctime in nanoseconds, or the sectors written to a block device and 0. */
  readonly version: readonly [bigint, bigint];
}

export function imageRecordOf({ inode, device, kind, sectorsWritten, mtimeNs, ctimeNs }: FileFacts): ImageRecord {
  return { inode, device, version: kind === 'block-device' ? [sectorsWritten?.disk ?? 0n, 0n] : [mtimeNs, ctimeNs] };
}

export interface LogHeader {
  readonly state: LogState;
  readonly sequence: bigint;
  readonly logId: Uint8Array;
  /** Bytes. */
  readonly size: number;
  readonly blockSize: number;
  readonly regionBytes: number;
  readonly image: ImageRecord;
  /** Whose log this is. */
  readonly owner: string;
}

export type HeaderSlot =
  | { readonly kind: 'header'; readonly header: LogHeader }
  | { readonly kind: 'invalid' }
  | { readonly kind: 'other-version'; readonly version: number; readonly checks: boolean };

/** One slot, 4 KiB. */
export function encodeHeader(header: LogHeader): Buffer {
  const slot = Buffer.alloc(slotBytes);
  const owner = Buffer.from(header.owner, 'utf8');
  if (owner.byteLength === 0 || owner.byteLength > ownerBytesMax) {
    throw new Problem(
      'bad-argument',
      `the name ${JSON.stringify(header.owner)} is empty or longer than ${ownerBytesMax} bytes`,
      { remedy: 'choose a shorter name' },
    );
  }
  magic.copy(slot, 0);
  slot.writeUInt16LE(logVersion, 4);
  slot.writeUInt8(header.state === 'open' ? 1 : 0, 6);
  slot.writeBigUInt64LE(header.sequence, 8);
  slot.set(header.logId, 16);
  slot.writeBigUInt64LE(BigInt(header.size), 32);
  slot.writeUInt32LE(header.blockSize, 40);
  slot.writeUInt32LE(header.regionBytes, 44);
  slot.writeBigUInt64LE(BigInt.asUintN(64, header.image.inode), 48);
  slot.writeBigUInt64LE(BigInt.asUintN(64, header.image.device), 56);
  slot.writeBigInt64LE(BigInt.asIntN(64, header.image.version[0]), 64);
  slot.writeBigInt64LE(BigInt.asIntN(64, header.image.version[1]), 72);
  slot.writeUInt16LE(owner.byteLength, 80);
  owner.copy(slot, ownerAt);
  slot.set(digest(slot.subarray(0, slotCheckedBytes)), slotCheckedBytes);
  return slot;
}

/** Whether the last 32 bytes are the digest of all before them. */
export function checks(record: Uint8Array): boolean {
  const end = record.byteLength - checkBytes;
  return Buffer.compare(digest(record.subarray(0, end)), record.subarray(end)) === 0;
}

/** `slot` is 4 KiB. Never throws. */
function decodeHeader(slot: Buffer): HeaderSlot {
  if (magic.compare(slot, 0, 4) !== 0) return { kind: 'invalid' };
  const version = slot.readUInt16LE(4);
  const good = checks(slot);
  if (version !== logVersion) return { kind: 'other-version', version, checks: good };
  const state = slot.readUInt8(6);
  const size = slot.readBigUInt64LE(32);
  const ownerBytes = slot.readUInt16LE(80);
  if (!good || state > 1 || size > BigInt(Number.MAX_SAFE_INTEGER) || ownerBytes > ownerBytesMax)
    return { kind: 'invalid' };
  return {
    kind: 'header',
    header: {
      state: state === 1 ? 'open' : 'clean',
      sequence: slot.readBigUInt64LE(8),
      logId: Uint8Array.from(slot.subarray(16, 16 + logIdBytes)),
      size: Number(size),
      blockSize: slot.readUInt32LE(40),
      regionBytes: slot.readUInt32LE(44),
      image: {
        inode: slot.readBigUInt64LE(48),
        device: slot.readBigUInt64LE(56),
        version: [slot.readBigInt64LE(64), slot.readBigInt64LE(72)],
      },
      owner: slot.toString('utf8', ownerAt, ownerAt + ownerBytes),
    },
  };
}

/** The counting one of the two slots; null when none is valid. @throws Problem `wrong-version`. */
export function newestHeader(slots: readonly Buffer[], path: string): LogHeader | null {
  let newest: LogHeader | null = null;
  let other: number | undefined;
  for (const slot of slots) {
    const found = decodeHeader(slot);
    if (found.kind === 'other-version') {
      if (found.checks) throw wrongVersion(path, found.version);
      other = found.version;
    }
    if (found.kind === 'header' && (newest === null || found.header.sequence > newest.sequence)) newest = found.header;
  }
  if (newest === null && other !== undefined) throw wrongVersion(path, other);
  return newest;
}

function wrongVersion(path: string, version: number): Problem {
  return new Problem('wrong-version', `change log ${path} has format ${version}, this program knows ${logVersion}`, {
    remedy: 'run the version that wrote it, or remove the file (the disk is then compared by checksum)',
  });
}
