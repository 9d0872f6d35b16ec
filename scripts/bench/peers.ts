/**
 * What users would pick instead of the product, moving the same image to a fresh file on the same disk with both ends on this machine.
 */
import type { Contender } from './contender.ts';

export interface Peers {
  /** Those whose programs are installed. */
  readonly contenders: readonly Contender[];
  readonly absent: readonly AbsentPeer[];
}

export interface AbsentPeer {
  readonly name: string;
  /** Such as the program that is missing. */
  readonly why: string;
}

/**
 * `image` was read a moment ago; outputs are made in `directory`, on the disk that is measured, and removed. Every contender checks its first result.
 * No other child of this process may end while one of them runs: its CPU seconds are taken from what this process waited for.
 */
export function peersOf(_image: string, _directory: string, _say: (text: string) => void): Promise<Peers> {
  return Promise.resolve({ contenders: [], absent: [] });
}
