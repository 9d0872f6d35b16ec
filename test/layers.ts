/** Layers as messages and points name them, from their seqs. */
import { withLayer, type LayerRun } from '../src/kernels/layer-run.ts';

export function runOf(seqs: Iterable<number>): LayerRun | null {
  let run: LayerRun | null = null;
  for (const seq of seqs) run = withLayer(run, seq);
  return run;
}
