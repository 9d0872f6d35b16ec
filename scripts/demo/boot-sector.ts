/**
 * A disk that starts: a boot sector that reads the disk's last sector and says what stands there on the first serial port, then rests. So whoever
 * starts the disk at a recovery point hears which one it is. No boot loader, no kernel: it takes a firmware and nothing else.
 *
 * An ext4 file system leaves its first 1,024 bytes free for this.
 */
import { open } from 'node:fs/promises';

export const sectorBytes = 512;
/** 16-bit x86 code, loaded at 0x7c00. */
function code(lastSector: number): Buffer {
  const start = Buffer.from(
    [
      'fc 31c0 8ed8 8ec0 8ed0 bc007c', // ds = es = ss = 0, the stack below the code
      'be0000 b442 cd13 721a', //          read what the packet says (int 13h, ah = 42h) from the disk this came from
      'be007e', //                         each byte of it, up to a zero:
      'ac 84c0 7412 88c4',
      'bafd03 ec a820 74fb', //            wait until the port takes one,
      'baf803 88e0 ee ebe9', //            give it
      'f4 ebfd', //                        rest
    ]
      .join('')
      .replaceAll(' ', ''),
    'hex',
  );
  // Disk address packet: of 16 bytes, one sector, to 0000:7e00, which one.
  const packet = Buffer.from('10000100007e00000000000000000000', 'hex');
  packet.writeBigUInt64LE(BigInt(lastSector), 8);
  const packetAt = Math.ceil(start.length / 4) * 4;
  start.writeUInt16LE(0x7c00 + packetAt, start.indexOf(0xbe) + 1);
  const sector = Buffer.alloc(sectorBytes);
  start.copy(sector);
  packet.copy(sector, packetAt);
  sector.writeUInt16BE(0x55aa, sectorBytes - 2);
  return sector;
}

/** Makes the disk one that starts. */
export async function makeStartable(image: string, size: number): Promise<void> {
  const file = await open(image, 'r+');
  try {
    await file.write(code(size / sectorBytes - 1), 0, sectorBytes, 0);
  } finally {
    await file.close();
  }
}

/** What the disk says when it is started from now on; ASCII, fits into a sector. */
export async function mark(image: string, size: number, text: string): Promise<void> {
  const sector = Buffer.alloc(sectorBytes);
  sector.write(`${text}\r\n`, 'latin1');
  const file = await open(image, 'r+');
  try {
    await file.write(sector, 0, sectorBytes, size - sectorBytes);
  } finally {
    await file.close();
  }
}
