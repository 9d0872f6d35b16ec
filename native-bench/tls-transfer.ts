/** The bare transport: frames of given sizes written to a TLS socket, and bytes taken from one, with nothing between. Both sides of a measurement. */
import type { TLSSocket } from 'node:tls';
import { release } from '../src/kit/release.ts';
import { systemRandom } from '../src/kit/random.ts';
import { limits } from '../src/limits.ts';
import type { Credentials } from '../src/transport/credentials.ts';

/** What the other process is asked to do: to connect and send frames of these sizes, or to listen and take so many bytes. */
export type PeerTask =
  | {
      readonly kind: 'send';
      readonly credentials: Credentials;
      readonly port: number;
      readonly sizes: readonly number[];
    }
  | { readonly kind: 'receive'; readonly credentials: Credentials; readonly bytes: number };

/** What it says: where it listens, then that it has all. */
export type PeerReport = { readonly kind: 'listening'; readonly port: number } | { readonly kind: 'done' };

export const host = '127.0.0.1';

/** What it holds does not matter to TLS. Random, so that no layer below can gain by it. */
const content = systemRandom.bytes(limits.wire.frameBytesMax);

/** One frame is with the socket at a time, as at the process server (`egress.ts`, 2). */
export async function sendFrames(socket: TLSSocket, sizes: readonly number[]): Promise<void> {
  for (const size of sizes) {
    await new Promise<void>((resolve, reject) => {
      socket.write(content.subarray(0, size), (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }
}

/** Takes `bytes` bytes and gives the memory of every chunk back at once. */
export async function receiveBytes(socket: TLSSocket, bytes: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let received = 0;
    socket.on('data', (chunk: Buffer) => {
      received += chunk.byteLength;
      release(chunk);
      if (received >= bytes) resolve();
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`the connection ended after ${received} of ${bytes} bytes`)));
  });
}

export function sum(sizes: readonly number[]): number {
  return sizes.reduce((total, size) => total + size, 0);
}
