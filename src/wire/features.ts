/**
 * What a session can do beyond the protocol's first version: a client offers in HELLO what it can, WELCOME says what both can.
 */
export const features = {
  /** Agent ↔ process server: several POINTs may wait for their answers. */
  pointsInFlight: 'points-in-flight',
  /** Process server ↔ target: a CYCLE may take up a layer of an earlier session again. */
  continueLayers: 'continue-layers',
} as const;

/** Those of `offered` that are known here. */
export function common(offered: readonly string[], known: readonly string[]): string[] {
  return offered.filter((feature) => known.includes(feature));
}
