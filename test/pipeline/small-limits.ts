/**
 * The product's limits, with the times and sizes made small that decide when something happens, so that a disk of one megabyte meets
 * rounds, cuts and back-off as one of a terabyte does. Used through `vi.mock`, which has to stand in each test file.
 */
type Limits = typeof import('../../src/limits.ts');

export function smallLimits(real: Limits): unknown {
  const { limits } = real;
  return {
    ...real,
    limits: {
      ...limits,
      agent: {
        ...limits.agent,
        lastRoundBytes: 128 * 1024,
        reconnectBaseMs: 4,
        reconnectMaxMs: 30,
        surveyPieceBytes: 64 * 1024,
        resyncStretchBytes: 1024 * 1024,
        checkpointBytes: 256 * 1024,
      },
      capture: { ...limits.capture, cutDrainMs: 400 },
      store: { ...limits.store, freeCheckMs: 20 },
    },
  };
}
