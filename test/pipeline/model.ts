/**
 * The plain model of a disk: bytes in memory, and the changes asked for in the order in which the capture accepted them. A cut says how
 * many of them it includes, so the disk as of any cut can be told from here alone.
 *
 * Changes that overlap never run at the same time, so the order of acceptance is the order of effect.
 */
import { readFileSync } from 'node:fs';

interface Change {
  readonly offset: number;
  readonly length: number;
  /** Null: zeros. */
  readonly bytes: Uint8Array | null;
  ended: boolean;
}

interface Life {
  readonly base: Buffer;
  readonly changes: Change[];
}

export class DiskModel {
  readonly name: string;
  readonly image: string;
  #lives: Life[];

  /** `base`: what is in the image; it stays as it is. */
  constructor(name: string, image: string, base: Buffer = readFileSync(image)) {
    this.name = name;
    this.image = image;
    this.#lives = [{ base, changes: [] }];
  }

  get #life(): Life {
    const life = this.#lives.at(-1);
    if (!life) throw new Error('a disk lives');
    return life;
  }

  /** Number of the present run of the capture. */
  get life(): number {
    return this.#lives.length - 1;
  }

  get size(): number {
    return this.#life.base.byteLength;
  }

  overlaps(offset: number, length: number): boolean {
    return this.#life.changes.some(
      (change) => !change.ended && change.offset < offset + length && offset < change.offset + change.length,
    );
  }

  get unfinished(): boolean {
    return this.#life.changes.some((change) => !change.ended);
  }

  /** Call in the same step as the capture's write. Returns what to call at its end. */
  change(offset: number, length: number, bytes: Uint8Array | null): () => void {
    const change: Change = { offset, length, bytes, ended: false };
    this.#life.changes.push(change);
    return () => {
      change.ended = true;
    };
  }

  /** The disk after the first `count` changes of a life; to be looked at only. */
  at(life: number, count: number): Buffer {
    const { base, changes } = this.#lives[life] ?? this.#life;
    const made = changes.slice(0, count);
    if (made.length === 0) return base;
    const bytes = Buffer.from(base);
    for (const change of made) {
      if (change.bytes) bytes.set(change.bytes, change.offset);
      else bytes.fill(0, change.offset, change.offset + change.length);
    }
    return bytes;
  }

  now(): Buffer {
    return this.at(this.life, Number.MAX_SAFE_INTEGER);
  }

  /** The image was changed while nobody captured it, or by a power failure: a new life begins with what is in it. */
  changedBehind(): void {
    this.#lives.push({ base: readFileSync(this.image), changes: [] });
  }

  /**
   * The capture ended and the image lies still: a new life begins with what is in the image. Where no change was under way it must be what
   * the model says; `grown` more bytes may follow, zeros.
   */
  reborn(): void {
    const expected = this.now();
    const found = readFileSync(this.image);
    for (const { ended, offset, length } of this.#life.changes)
      if (!ended) found.copy(expected, offset, offset, offset + length);
    const grown = Buffer.alloc(Math.max(0, found.byteLength - expected.byteLength));
    const size = expected.byteLength;
    if (!found.subarray(0, size).equals(expected) || !found.subarray(size).equals(grown))
      throw new Error(`image of ${this.name} differs from the model at its own restart`);
    this.#lives.push({ base: grown.byteLength > 0 ? found : expected, changes: [] });
  }
}
