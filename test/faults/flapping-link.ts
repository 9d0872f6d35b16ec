/** A link to a server on this host that resets every connection again and again: a relay of bytes between. */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { systemClock } from '../../src/kit/clock.ts';
import type { Timer } from '../../src/kit/clock.ts';

const host = '127.0.0.1';

export class FlappingLink {
  readonly #server: Server;
  readonly #to: () => number;
  readonly #sockets = new Set<Socket>();
  #flapping: Timer | null = null;
  /** Connections that were reset. */
  resets = 0;

  /** @param to the server's port. */
  private constructor(to: () => number) {
    this.#to = to;
    this.#server = createServer((socket) => this.#relay(socket));
  }

  static async open(to: () => number): Promise<FlappingLink> {
    const link = new FlappingLink(to);
    await new Promise<void>((resolve) => link.#server.listen(0, host, resolve));
    return link;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('a link listens');
    return address.port;
  }

  flap(everyMs: number): void {
    this.#flapping = systemClock.every(everyMs, () => this.#reset());
  }

  calm(): void {
    this.#flapping?.cancel();
  }

  async close(): Promise<void> {
    this.calm();
    this.#reset();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #relay(near: Socket): void {
    const far = connect(this.#to(), host);
    const ends = [near, far];
    for (const socket of ends) {
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        for (const each of ends) each.destroy();
      });
    }
    near.pipe(far).pipe(near);
  }

  #reset(): void {
    this.resets += this.#sockets.size / 2;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}
