/** Numbers of a report. */

export const rounded = (value: number, digits = 2): number => Number(value.toFixed(digits));

/** The middle one, or the mean of the two in the middle. NaN: there are none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const [above = Number.NaN, below = Number.NaN] = [sorted[middle], sorted[middle - 1]];
  return sorted.length % 2 === 1 ? above : (below + above) / 2;
}
