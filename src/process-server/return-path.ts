/**
 * The way back to the agent: frames in the order they came from the target. When the agent does not read, the target is not read
 * either (C5): what waits here stays below `returnQueueBytesMax` plus what one read of the socket brings.
 */
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';

/** Where the frames come from. */
export interface Upstream {
  readonly paused: boolean;
  pause(): void;
  resume(): void;
}

export class ReturnPath {
  readonly #agent: Connection;
  readonly #target: Upstream;
  #waitingBytes = 0;

  constructor(agent: Connection, target: Upstream) {
    this.#agent = agent;
    this.#target = target;
  }

  /** Bytes that the socket did not take yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** Sends a frame; it is owned here until the socket took it. A refused send means the agent is gone, which its `closed` tells. */
  send(frame: Uint8Array): void {
    const done = (): void => {
      this.#waitingBytes -= frame.byteLength;
      if (this.#target.paused && this.#waitingBytes <= limits.processServer.returnQueueBytesMax / 2)
        this.#target.resume();
    };
    this.#waitingBytes += frame.byteLength;
    this.#agent.send(frame).then(done, done);
    if (!this.#target.paused && this.#waitingBytes > limits.processServer.returnQueueBytesMax) this.#target.pause();
  }
}
