/**
 * One batch of an agent, and every kernel that some role runs over it, each on its own: the product's own functions and providers.
 *
 *  1. The kernels run one after another over the whole batch, not record by record, so that each can be told apart by the clock.
 *  2. Every batch is sealed once as the worker seals it, record by record. What comes of it is digested, opened and decompressed here, and its lengths
 *     are those of what is sent and written; so every kernel works on the bytes the product gives it, zero and raw records included.
 *  3. A record that does not open ends the measurement.
 *  4. Memory is made once: fresh memory would be paid for by whichever kernel touches it first, and by the garbage collector's threads.
 */
import type { KeyObject } from 'node:crypto';
import type { Geometry } from '../src/disk/geometry.ts';
import { zeroLeaf } from '../src/disk/merkle.ts';
import { fullMask } from '../src/disk/page-mask.ts';
import { blake3Choice } from '../src/kernels/blake3.ts';
import { decrypt, encrypt } from '../src/kernels/cipher.ts';
import { codecs, decompress, withCompressed, type Compression } from '../src/kernels/compress.ts';
import { digest, isZero } from '../src/kernels/hash.ts';
import { layerKeyOf } from '../src/kernels/keys.ts';
import { lz4Choice } from '../src/kernels/lz4.ts';
import { sealRecord } from '../src/kernels/seal.ts';
import { systemRandom } from '../src/kit/random.ts';
import { release } from '../src/kit/release.ts';
import type { File } from '../src/posix/files.ts';
import { triesToCompress } from '../src/process-server/seal-batch.ts';
import { batchHeaderBytes, batchRecordBytes } from '../src/wire/batch.ts';
import { frameHeaderBytes } from '../src/wire/frame.ts';
import { sealedHeaderBytes, sealedRowBytes, writeSealedRow, type SealedRow } from '../src/wire/sealed.ts';

/** `lz4` is LZ4 over every block, whatever the product compresses with. */
export const kernelNames = [
  'zeroCheck',
  'leafHash',
  'compress',
  'encrypt',
  'digest',
  'decrypt',
  'decompress',
  'lz4',
] as const;

export type KernelName = (typeof kernelNames)[number];

/** Each runs its kernel over the batch once. */
export type Kernels = Readonly<Record<KernelName, () => void>>;

/** A sealed record; `plain` is what its cipher covers, memory of its own. */
interface BatchRecord extends Omit<SealedRow, 'payloadOffset'> {
  readonly diskId: Uint8Array;
  readonly seq: number;
  readonly sealed: Uint8Array;
  readonly plain: Uint8Array;
}

/** What is the same for all batches of one measurement, and what they hand on to each other as a lane does. */
export class Layer {
  readonly seq = 1;
  readonly geometry: Geometry;
  readonly compression: Compression;
  readonly key: KeyObject = layerKeyOf(systemRandom.bytes(32));
  readonly diskId = Uint8Array.from(systemRandom.bytes(16));
  readonly leafOf = blake3Choice.implementation.keyed(systemRandom.bytes(32));
  nextNonce = 0;
  rawStreak = 0;

  constructor(geometry: Geometry, compression: Compression) {
    this.geometry = geometry;
    this.compression = compression;
  }
}

/** The memory of a batch, used for one after another (invariant 4). */
export class KernelBatch {
  readonly #bytes: Buffer;
  readonly #sealed: Uint8Array;
  readonly #scratch: Uint8Array;
  #blocks: readonly Uint8Array[] = [];
  #tried: Uint8Array[] = [];
  #records: BatchRecord[] = [];
  #payloadBytes = 0;
  #sealedBytes = 0;

  constructor(blocksMax: number, blockSize: number) {
    this.#bytes = Buffer.alloc(blocksMax * blockSize);
    this.#sealed = new Uint8Array(blocksMax * (sealedRowBytes + blockSize));
    this.#scratch = new Uint8Array(blockSize);
  }

  /** Of the BATCH that an agent sends. */
  get plainFrameBytes(): number {
    return frameHeaderBytes + batchHeaderBytes + this.#records.length * batchRecordBytes + this.#payloadBytes;
  }

  /** Of the SEALED that goes to the target. */
  get sealedFrameBytes(): number {
    return frameHeaderBytes + sealedHeaderBytes + this.#sealedBytes;
  }

  get records(): readonly Omit<SealedRow, 'payloadOffset'>[] {
    return this.#records;
  }

  /** Reads `count` blocks from `first` on and seals them (invariant 2); returns the kernels over them. */
  prepare(layer: Layer, image: File, first: number, count: number): Kernels {
    const { blockSize } = layer.geometry;
    const bytes = this.#bytes.subarray(0, count * blockSize);
    bytes.fill(0, image.readSync(bytes, first * blockSize));
    this.#blocks = Array.from({ length: count }, (_, at) => bytes.subarray(at * blockSize, (at + 1) * blockSize));
    for (const { plain } of this.#records) release(plain);
    [this.#records, this.#tried, this.#payloadBytes, this.#sealedBytes] = [[], [], 0, count * sealedRowBytes];
    for (const [index, pages] of this.#blocks.entries()) this.#seal(layer, first + index, pages);
    return this.#kernels(layer);
  }

  #seal(layer: Layer, block: number, pages: Uint8Array): void {
    const { key, diskId, seq } = layer;
    const zero = isZero(pages);
    const [leaf, nonce, pageMask] = [zero ? zeroLeaf : layer.leafOf([pages]), layer.nextNonce, fullMask];
    const tried = triesToCompress(layer.rawStreak, nonce);
    const how = { layerKey: key, diskId, seq, block, pageMask, nonce, leaf };
    const compression = tried ? layer.compression : 'off';
    const at = this.#sealedBytes;
    const result = sealRecord({ ...how, pages: zero ? nothing : pages, compression }, this.#sealed, at);
    const row = { block, pageMask, nonce, leaf, ...result };
    writeSealedRow(this.#sealed, this.#records.length * sealedRowBytes, row);
    const sealed = this.#sealed.subarray(at, at + result.storedLength);
    const plain = decrypt(key, { ...row, diskId, seq }, nonce, sealed, row.tag);
    if (plain === null) throw new Error(`block ${block} does not open`);
    this.#records.push({ ...row, diskId, seq, sealed, plain });
    this.#sealedBytes += result.storedLength;
    layer.nextNonce += 1;
    if (zero) return;
    this.#payloadBytes += pages.byteLength;
    if (tried) this.#tried.push(pages);
    layer.rawStreak = result.codec === codecs.raw ? layer.rawStreak + 1 : 0;
  }

  #kernels({ leafOf, compression, key }: Layer): Kernels {
    const [blocks, records, tried] = [this.#blocks, this.#records, this.#tried];
    const notZero = blocks.filter((_, index) => records[index]?.codec !== codecs.zero);
    const digested = this.#sealed.subarray(0, this.#sealedBytes);
    const { compress } = lz4Choice.implementation;
    if (!compress) throw new Error('no provider of LZ4 compresses here');
    return {
      zeroCheck: () => blocks.forEach((block) => isZero(block)),
      leafHash: () => notZero.forEach((block) => leafOf([block])),
      compress: () => tried.forEach((block) => withCompressed(block, compression, (_, out) => out.byteLength)),
      encrypt: () => records.forEach((each) => encrypt(key, each, each.nonce, each.plain, this.#scratch, 0)),
      digest: () => digest(digested),
      decrypt: () => {
        for (const each of records) {
          const plain = decrypt(key, each, each.nonce, each.sealed, each.tag);
          if (plain) release(plain);
        }
      },
      decompress: () => {
        for (const { codec, plain, rawLength } of records)
          if (codec === codecs.lz4 || codec === codecs.zstd) release(decompress(codec, plain, rawLength));
      },
      lz4: () => blocks.forEach((block) => compress(block, (out) => out.byteLength)),
    };
  }
}

const nothing = new Uint8Array(0);
