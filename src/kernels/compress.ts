/**
 * Compression of one record. Codec numbers are those of `store/FORMAT.md`. A record that does not shrink by a sixteenth is stored
 * raw: reading it back must not cost more than it saves.
 */
import { lz4Choice } from './lz4.ts';
import { zstdChoice } from './zstd.ts';

export const codecs = { raw: 0, lz4: 1, zstd: 2, zero: 3 } as const;
export type Codec = (typeof codecs)[keyof typeof codecs];

export type Compression = 'lz4' | 'zstd' | 'off';

const lz4 = lz4Choice.implementation;
const zstd = zstdChoice.implementation;

/** Bytes that `rawLength` bytes must shrink to, or they are stored raw. */
function worthwhileBytes(rawLength: number): number {
  return rawLength - rawLength / 16;
}

/**
 * Compresses `input` and hands `use` the codec and the bytes to store: the compressed ones if that was worth it, else `input`
 * itself. The bytes are valid during the call only.
 */
export function withCompressed<T>(
  input: Uint8Array,
  compression: Compression,
  use: (codec: typeof codecs.raw | typeof codecs.lz4 | typeof codecs.zstd, bytes: Uint8Array) => T,
): T {
  const keep =
    (codec: typeof codecs.lz4 | typeof codecs.zstd) =>
    (bytes: Uint8Array): T =>
      bytes.byteLength <= worthwhileBytes(input.byteLength) ? use(codec, bytes) : use(codecs.raw, input);
  if (compression === 'zstd') return zstd.compress(input, keep(codecs.zstd));
  if (compression === 'lz4' && lz4.compress) return lz4.compress(input, keep(codecs.lz4));
  return use(codecs.raw, input);
}

/** The `rawLength` raw bytes of a payload, in memory of their own unless it was stored raw. @throws Error when it does not decode to them. */
export function decompress(
  codec: typeof codecs.lz4 | typeof codecs.zstd,
  payload: Uint8Array,
  rawLength: number,
): Uint8Array {
  return codec === codecs.lz4 ? lz4.decompress(payload, rawLength) : zstd.decompress(payload, rawLength);
}
