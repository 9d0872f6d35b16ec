/** Throws when something that must hold does not: a bug in this program, never a peer's or a user's mistake. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (condition !== true && !condition) throw new Error(`invariant broken: ${message}`);
}
