/** Bit rot: one bit of a file, changed in place. */
import { open } from 'node:fs/promises';

export async function flipBit(path: string, at: number): Promise<void> {
  const file = await open(path, 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte.writeUInt8(byte.readUInt8(0) ^ 1);
  await file.write(byte, 0, 1, at);
  await file.close();
}
