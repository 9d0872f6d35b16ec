/**
 * LZ4 block codec. Stored blocks have no length prefix: the raw length stands in the row, is bounded by the block size before
 * anything is decoded, and is authenticated (`store/FORMAT.md`, codec 1).
 *
 * `lz4-napi` puts a 4-byte length in front and, decoding, believes it: 270 bytes that claim 4 GiB took 4.1 GB of memory. So the
 * prefix is cut off on the way out, and on the way in it is written here from the length the caller already bounded. Without the
 * native module blocks can still be read (the decoder below, many times as dear: `native-bench`), and new ones are stored uncompressed.
 */
import { createRequire } from 'node:module';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import { choose, type Candidate } from './choose.ts';
import { release } from '../kit/release.ts';

export interface Lz4 {
  /**
   * Hands the compressed block to `use`, valid during the call only. Null where this provider can not compress.
   */
  readonly compress: (<T>(input: Uint8Array, use: (block: Uint8Array) => T) => T) | null;
  /** `rawLength` bytes in memory of their own. Never allocates more than that. @throws Error when the block does not decode to it. */
  decompress(block: Uint8Array, rawLength: number): Uint8Array;
}

const prefixBytes = 4;
const require = createRequire(import.meta.url);

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function loadNative(): Lz4 {
  const native = require('lz4-napi') as typeof import('lz4-napi');
  const prefixed = Buffer.allocUnsafeSlow(prefixBytes + limits.disk.blockBytesMax);
  return selfChecked({
    compress(input, use) {
      const output = native.compressSync(bufferOf(input));
      const result = use(output.subarray(prefixBytes));
      release(output);
      return result;
    },
    decompress(block, rawLength) {
      invariant(block.byteLength <= limits.disk.blockBytesMax, 'a compressed block is not longer than a block');
      prefixed.writeUInt32LE(rawLength, 0);
      prefixed.set(block, prefixBytes);
      const output = native.uncompressSync(prefixed.subarray(0, prefixBytes + block.byteLength));
      if (output.byteLength !== rawLength) throw new Error(`${output.byteLength} bytes instead of ${rawLength}`);
      return output;
    },
  });
}

/**
 * The LZ4 block format, decoded as its specification says (github.com/lz4/lz4, doc/lz4_Block_format.md): sequences of token,
 * literals, offset, match. Every length is checked against what is left of input and output.
 */
function decodePortably(block: Uint8Array, rawLength: number): Uint8Array {
  const out = new Uint8Array(rawLength);
  let from = 0;
  let to = 0;
  const next = (): number => {
    const byte = block[from];
    if (byte === undefined) throw new Error('the block ends within a sequence');
    from += 1;
    return byte;
  };
  const extended = (nibble: number): number => {
    let length = nibble;
    if (nibble === 15) {
      for (let byte = 255; byte === 255; length += byte) byte = next();
    }
    return length;
  };
  for (;;) {
    const token = next();
    const literals = extended(token >>> 4);
    if (literals > block.byteLength - from || literals > rawLength - to) throw new Error('literals past the end');
    out.set(block.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    if (from === block.byteLength) break;
    const offset = next() | (next() << 8);
    const match = extended(token & 15) + 4;
    if (offset === 0 || offset > to || match > rawLength - to) throw new Error('a match outside the output');
    for (let done = 0; done < match; done += offset) {
      out.copyWithin(to + done, to - offset, to - offset + Math.min(offset, match - done));
    }
    to += match;
  }
  if (to !== rawLength) throw new Error(`${to} bytes instead of ${rawLength}`);
  return out;
}

/** A known answer: 1, 2, 3, 4, eight times (4 literals, a match of 23 at offset 4, 5 literals). */
const knownBlock = Buffer.from('4f0102030404000450' + '0401020304', 'hex');
const knownRaw = Buffer.from('01020304'.repeat(8), 'hex');

function selfChecked(lz4: Lz4): Lz4 {
  invariant(knownRaw.equals(lz4.decompress(knownBlock, knownRaw.byteLength)), 'the known answer of LZ4');
  return lz4;
}

export const lz4Candidates: readonly Candidate<Lz4>[] = [
  { name: 'lz4-napi', load: loadNative },
  { name: 'portable decoder', load: () => selfChecked({ compress: null, decompress: decodePortably }) },
];

export const lz4Choice = choose('lz4', lz4Candidates);
