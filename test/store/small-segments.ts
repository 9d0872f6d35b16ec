/**
 * The product's limits with segments of a few blocks, so that a small store is folded as a large one is: records are moved, segments removed, in
 * several steps. Used through `vi.mock`, which has to stand in each test file.
 */
type Limits = typeof import('../../src/limits.ts');

export function smallSegments(real: Limits, segmentBytesMax = 65_536): unknown {
  const { limits } = real;
  const target = { ...limits.target, segmentBytesMax, groupBytesMax: 32_768 };
  const store = { ...limits.store, movedBytes: 8_192, foldStepRecords: 16 };
  return { ...real, limits: { ...limits, target, store } };
}
