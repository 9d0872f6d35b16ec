/**
 * Which implementation of a kernel this process uses: chosen once, when the module loads, never per call (DESIGN §5). Candidates
 * stand in order of cost as `native-bench/results.json` has it for 64 KiB (`npm run bench:kernels -- --save` makes it, a test compares); the first that
 * loads and passes its self-check wins, the reasons of those passed over are kept.
 */
import { invariant } from '../kit/invariant.ts';
import { messageOf } from '../kit/problem.ts';

export interface Candidate<T> {
  /** Package or module name, as operators know it. */
  readonly name: string;
  /** Loads the implementation and proves with a known answer that it works; throws when it does not. */
  readonly load: () => T;
}

export interface Choice<T> {
  readonly provider: string;
  readonly implementation: T;
  /** True when the preferred candidate was passed over: slower, and worth a log line and a metric. */
  readonly fallback: boolean;
  /** Why this one: in words for the log. */
  readonly reason: string;
}

/** @throws Error (a broken installation) when no candidate loads, with every candidate's reason. */
export function choose<T>(kernel: string, candidates: readonly Candidate<T>[]): Choice<T> {
  const passedOver: string[] = [];
  for (const { name, load } of candidates) {
    try {
      const implementation = load();
      const fallback = passedOver.length > 0;
      return {
        provider: name,
        implementation,
        fallback,
        reason: fallback ? passedOver.join('; ') : 'preferred provider loaded',
      };
    } catch (error) {
      passedOver.push(`${name}: ${messageOf(error)}`);
    }
  }
  invariant(false, `no provider for ${kernel} can be loaded (${passedOver.join('; ')}); reinstall the dependencies`);
}
