/** `seq = epoch · 2³² + counter` (DESIGN §3): unique, rising, never reused. A number, so the epoch stays below 2²¹. */
import { invariant } from '../kit/invariant.ts';

const counterRange = 2 ** 32;
const epochMax = 2 ** 21 - 1;

export function seqOf(epoch: number, counter: number): number {
  invariant(epoch >= 0 && epoch <= epochMax && counter >= 0 && counter < counterRange, `seq of ${epoch}, ${counter}`);
  return epoch * counterRange + counter;
}

export function epochOf(seq: number): number {
  return Math.floor(seq / counterRange);
}

export function counterOf(seq: number): number {
  return seq % counterRange;
}
