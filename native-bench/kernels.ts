/**
 * How fast the kernels are here: every provider of hash, LZ4 and zstd that loads, and AES-GCM; 4 KiB and 64 KiB of text, random bytes and
 * zeros; both directions. MB/s (10⁶ bytes of plain data per second), by the mean time of a call.
 *
 * `npm run bench:kernels`, with `-- --json` for one JSON document on standard output. Numbers of a busy machine are worth little.
 */
import { createSecretKey } from 'node:crypto';
import { Bench } from 'tinybench';
import { blake3Candidates } from '../src/kernels/blake3.ts';
import type { Candidate } from '../src/kernels/choose.ts';
import { decrypt, encrypt } from '../src/kernels/cipher.ts';
import { lz4Candidates } from '../src/kernels/lz4.ts';
import { release } from '../src/kit/release.ts';
import { zstdCandidates } from '../src/kernels/zstd.ts';
import { messageOf } from '../src/kit/problem.ts';
import { systemRandom as random } from '../src/kit/random.ts';
import { KiB } from '../src/limits.ts';

export interface Measured {
  readonly kernel: 'blake3' | 'lz4' | 'zstd' | 'aes-256-gcm';
  readonly provider: string;
  readonly direction: 'hash' | 'compress' | 'decompress' | 'encrypt' | 'decrypt';
  readonly content: 'text' | 'random' | 'zero';
  readonly bytes: number;
  readonly mbPerSecond: number;
}

interface Input {
  readonly content: Measured['content'];
  readonly plain: Buffer;
}

/** A measurement to be made: what it is of, and one call. */
interface Task extends Omit<Measured, 'mbPerSecond'> {
  readonly run: () => void;
}

const sizes = [4 * KiB, 64 * KiB];
const sentence = 'Nov 03 12:00:01 web1 sshd[4711]: Accepted publickey for deploy from 192.0.2.17 port 50022\n';

function inputsOf(bytes: number): Input[] {
  // Lines that differ in their number: compresses like a log, not like one line again and again.
  const lines = Array.from({ length: Math.ceil(bytes / sentence.length) }, (_, line) => `${line * 7919} ${sentence}`);
  return [
    { content: 'text', plain: Buffer.from(lines.join('')).subarray(0, bytes) },
    { content: 'random', plain: Buffer.from(random.bytes(bytes)) },
    { content: 'zero', plain: Buffer.alloc(bytes) },
  ];
}

/** The candidates that load here. One that does not is named on standard error. */
function loaded<T>(candidates: readonly Candidate<T>[]): { provider: string; implementation: T }[] {
  return candidates.flatMap(({ name, load }) => {
    try {
      return [{ provider: name, implementation: load() }];
    } catch (error) {
      process.stderr.write(`${name} does not load: ${messageOf(error)}\n`);
      return [];
    }
  });
}

function* tasksOf({ content, plain }: Input): Generator<Task> {
  const bytes = plain.byteLength;
  const of = { content, bytes };
  const copy = (out: Uint8Array): Uint8Array => Uint8Array.from(out);
  for (const { provider, implementation } of loaded(blake3Candidates)) {
    const run = (): void => void implementation.hash([plain]);
    yield { ...of, kernel: 'blake3', provider, direction: 'hash', run };
  }
  const lz4 = loaded(lz4Candidates);
  const block = lz4
    .map(({ implementation }) => implementation.compress?.(plain, copy))
    .find((out) => out !== undefined);
  for (const { provider, implementation } of lz4) {
    const { compress } = implementation;
    const name = { ...of, kernel: 'lz4', provider } as const;
    if (compress) yield { ...name, direction: 'compress', run: () => void compress(plain, (out) => out.byteLength) };
    if (block) yield { ...name, direction: 'decompress', run: () => void implementation.decompress(block, bytes) };
  }
  for (const { provider, implementation } of loaded(zstdCandidates)) {
    const frame = implementation.compress(plain, copy);
    const name = { ...of, kernel: 'zstd', provider } as const;
    const compress = (): void => void implementation.compress(plain, (out) => out.byteLength);
    yield { ...name, direction: 'compress', run: compress };
    yield { ...name, direction: 'decompress', run: () => void implementation.decompress(frame, bytes) };
  }
  const key = createSecretKey(random.bytes(32));
  const place = { diskId: new Uint8Array(16), seq: 1, block: 0, pageMask: 0xffff, codec: 0, rawLength: bytes };
  const record = { ...place, leaf: new Uint8Array(32) };
  const sealed = new Uint8Array(bytes);
  // One nonce again and again: nothing sealed here is kept.
  const seal = (): Uint8Array => encrypt(key, record, 1, plain, sealed, 0);
  const tag = seal();
  const open = (): void => {
    const opened = decrypt(key, record, 1, sealed, tag);
    if (!opened) throw new Error('what was sealed does not open');
    release(opened);
  };
  const name = { ...of, kernel: 'aes-256-gcm', provider: 'node:crypto' } as const;
  yield { ...name, direction: 'encrypt', run: () => void seal() };
  yield { ...name, direction: 'decrypt', run: open };
}

/** Measures everything, each for at least `milliseconds`. @throws the error of the first kernel that fails. */
export async function measureKernels(milliseconds: number): Promise<Measured[]> {
  const tasks = sizes.flatMap((bytes) => inputsOf(bytes).flatMap((input) => [...tasksOf(input)]));
  const bench = new Bench({ time: milliseconds, warmupTime: milliseconds / 5, iterations: 8, throws: true });
  for (const [index, { run }] of tasks.entries()) bench.add(String(index), run);
  await bench.run();
  return tasks.map(({ run, ...what }, index) => {
    const result = bench.tasks[index]?.result;
    if (result?.state !== 'completed') throw new Error(`${what.kernel} by ${what.provider} was not measured`);
    const bytesPerMs = what.bytes / result.latency.mean;
    return { ...what, mbPerSecond: Math.round(bytesPerMs / 100) / 10 };
  });
}

if (import.meta.main) {
  const measured = await measureKernels(100);
  if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify(measured, null, 2)}\n`);
  else {
    for (const { kernel, provider, direction, content, bytes, mbPerSecond } of measured) {
      const what = `${kernel.padEnd(12)} ${provider.padEnd(20)} ${direction.padEnd(10)} ${content.padEnd(6)}`;
      process.stdout.write(
        `${what} ${String(bytes / KiB).padStart(3)} KiB ${mbPerSecond.toFixed(1).padStart(9)} MB/s\n`,
      );
    }
  }
}
