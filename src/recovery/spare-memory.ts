/**
 * Memory of one size that goes round. Fresh memory for every read costs page faults, and so much of it, held from outside the heap, that the garbage
 * collector stops everything many times a second.
 *
 * What is given is detached there and then: its owner's views see nothing from then on. At most so much lies here as was said.
 */
export class SpareMemory {
  readonly #bytes: number;
  readonly #piecesMax: number;
  readonly #pieces: ArrayBuffer[] = [];

  /** @param bytes of one piece. */
  constructor(bytes: number, piecesMax: number) {
    this.#bytes = bytes;
    this.#piecesMax = piecesMax;
  }

  /** A piece with anything in it; undefined: there is none. */
  take(): ArrayBuffer | undefined {
    return this.#pieces.pop();
  }

  /** Takes back a piece; leaves alone what is of another size, or too much. */
  give(piece: ArrayBuffer): void {
    if (piece.byteLength === this.#bytes && this.#pieces.length < this.#piecesMax) this.#pieces.push(piece.transfer());
  }

  clear(): void {
    this.#pieces.length = 0;
  }
}
