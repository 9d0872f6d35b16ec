/** `layers` of OPENED, POINT and a point's record: a run of layers (`kernels/layer-run.ts`), null for none (PROTOCOL.md). */
import { z } from 'zod';
import { hex, safeInteger, seqField } from './control-body.ts';

/** Whether `count` layers find room from `first` to `last`. */
export function fitsItsEnds(run: { readonly first: number; readonly last: number; readonly count: number }): boolean {
  const { first, last, count } = run;
  return count === 1 ? first === last : count <= last - first + 1;
}

export const layerRunField = z
  .object({ first: seqField, last: seqField, count: safeInteger.min(1), chain: hex(32) })
  .refine(fitsItsEnds, { message: 'so many layers do not fit between first and last' })
  .nullable();
