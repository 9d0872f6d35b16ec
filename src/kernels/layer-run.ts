/**
 * Layers of one disk that no point lists yet, or that one point adds, as a value of fixed size however many they are (PROTOCOL.md, *Layers of a
 * disk*). Kept by who writes them: agent and target each fold in what they know, and compare the results.
 *
 * An interval is enough, because the seqs of a disk rise and everything durable is listed by the disk's next point or dropped before it: what lies
 * between `first` and `last` is in. `count` and `chain` name the set itself, so that one layer too many or too few, or another in its place, is
 * found. Runs of consecutive seqs were rejected: counters are the machine's, so the layers of one of 64 disks have holes between all of them.
 */
import { invariant } from '../kit/invariant.ts';
import { digest } from './hash.ts';

export interface LayerRun {
  readonly first: number;
  readonly last: number;
  readonly count: number;
  /** Hex of the last h: h₀ = 32 zero bytes, hₙ = BLAKE3(hₙ₋₁ ‖ u64 seqₙ), ascending. */
  readonly chain: string;
}

/** The run (null: no layer) with one more layer behind it. */
export function withLayer(run: LayerRun | null, seq: number): LayerRun {
  invariant(run === null || seq > run.last, `layer ${seq} comes after layer ${run?.last ?? 0}`);
  const before = run === null ? Buffer.alloc(32) : Buffer.from(run.chain, 'hex');
  const encoded = Buffer.alloc(8);
  encoded.writeBigUInt64LE(BigInt(seq));
  const chain = Buffer.from(digest(before, encoded)).toString('hex');
  return { first: run?.first ?? seq, last: seq, count: (run?.count ?? 0) + 1, chain };
}

export function sameLayers(a: LayerRun | null, b: LayerRun | null): boolean {
  if (a === null || b === null) return a === b;
  return a.first === b.first && a.last === b.last && a.count === b.count && a.chain === b.chain;
}

/** For people. */
export function describeLayers(run: LayerRun | null): string {
  return run === null ? 'no layer' : `${run.count} layers from ${run.first} to ${run.last} (${run.chain.slice(0, 8)})`;
}
