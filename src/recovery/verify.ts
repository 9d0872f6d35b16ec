/** Verify: every block of a point read, decrypted and checked, the root recomputed from what was read. */
import type { Clock } from '../kit/clock.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { RootBuilder, type PointImage } from './point-image.ts';

const damagedNamedMax = 100;

export interface VerifyResult {
  readonly ok: boolean;
  readonly blocks: number;
  /** The first blocks that failed, at most 100. */
  readonly damagedBlocks: readonly number[];
  readonly rootMatches: boolean;
}

export async function verifyPoint(
  image: PointImage,
  options: { readonly clock: Clock; readonly signal: AbortSignal; readonly progress: (doneBytes: number) => void },
): Promise<VerifyResult> {
  const { geometry } = image;
  const into = Buffer.allocUnsafeSlow(geometry.blockSize);
  const builder = new RootBuilder(geometry);
  const damagedBlocks: number[] = [];
  let blocks = 0;
  for (const entry of image.entries()) {
    if (options.signal.aborted) throw new Problem('interrupted', 'verification was interrupted');
    blocks += 1;
    try {
      await image.read(entry, into);
      builder.add(entry.block, entry.leaf);
    } catch (error) {
      if (!isProblem(error) || error.code !== 'damaged') throw error;
      if (damagedBlocks.length < damagedNamedMax) damagedBlocks.push(entry.block);
    }
    options.progress(Math.min(geometry.size, (entry.block + 1) * geometry.blockSize));
    if (blocks % 16 === 0) await options.clock.turn();
  }
  options.progress(geometry.size);
  const rootMatches = builder.root() === image.at.root;
  return { ok: rootMatches && damagedBlocks.length === 0, blocks, damagedBlocks, rootMatches };
}
