/** Starts NBD servers on sockets of their own and takes everything away again. */
import { connect, type Socket } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { Backend } from '../../src/nbd/backend.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { serveNbd, type NbdServer, type NbdServerOptions } from '../../src/nbd/server.ts';

export class Place {
  readonly directory: string;
  readonly #ends: (() => Promise<void> | void)[] = [];
  #sockets = 0;

  constructor(directory: string) {
    this.directory = directory;
  }

  static async make(): Promise<Place> {
    return new Place(await mkdtemp(path.join(tmpdir(), 'tidemark-nbd-')));
  }

  file(name: string): string {
    return path.join(this.directory, name);
  }

  /** Serves the backends; a single one gets the name `disk`. */
  async serve(
    backends: Backend | ReadonlyMap<string, Backend>,
    options: Partial<NbdServerOptions> = {},
  ): Promise<NbdServer> {
    this.#sockets += 1;
    const server = await serveNbd({
      exports: backends instanceof Map ? backends : new Map([['disk', backends as Backend]]),
      listen: { unixPath: this.file(`s${this.#sockets}`) },
      clock: systemClock,
      files: posixFiles,
      ...options,
    });
    this.#ends.push(() => server.close());
    return server;
  }

  async client(server: NbdServer, exportName = ''): Promise<NbdClient> {
    const client = await connectNbd(server.address, { exportName, clock: systemClock });
    this.#ends.push(() => client.destroy());
    return client;
  }

  raw(server: NbdServer): RawClient {
    const { address } = server;
    const socket = 'unixPath' in address ? connect(address.unixPath) : connect(address);
    this.#ends.push(() => void socket.destroy());
    return new RawClient(socket);
  }

  async end(): Promise<void> {
    for (const end of this.#ends.splice(0).reverse()) await end();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Says and hears bytes, whatever they mean. */
export class RawClient {
  readonly socket: Socket;
  #chunks: Buffer[] = [];
  #heard = 0;
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#heard += chunk.byteLength;
      this.#wake?.();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#closed = true;
      this.#wake?.();
    });
  }

  say(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** The next `length` bytes; throws when the connection ends before. */
  async hear(length: number): Promise<Buffer> {
    while (this.#heard < length) {
      if (this.#closed) throw new Error(`closed after ${this.#heard} of ${length} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [all.subarray(length)];
    this.#heard -= length;
    return all.subarray(0, length);
  }

  /** Resolves when the server has closed, with what it said before and nobody heard. */
  async closed(): Promise<Buffer> {
    while (!this.#closed) await new Promise<void>((resolve) => (this.#wake = resolve));
    return Buffer.concat(this.#chunks);
  }
}
