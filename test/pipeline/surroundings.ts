/** What every role of a test's site shares: one clock, one machine, and the few places they find each other. */
import type { BlockHasher } from '../../src/agent/hash-blocks.ts';
import type { ResyncWindow } from '../../src/agent/resync.ts';
import type { AppConsistency } from '../../src/agent/app-consistency.ts';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import type { CutAll } from '../../src/capture/contract.ts';
import type { Problem } from '../../src/kit/problem.ts';
import type { Logger } from '../../src/observe/logger.ts';
import type { ProcessServer } from '../../src/process-server/server.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import type { DiskModel } from './model.ts';
import type { Hop } from './wires.ts';

export const machine = 'm1';

/** Wall clock times rise with every look, so that a cut can be known by its time. */
let lastWallMs = 0;
export const clock: Clock = {
  ...systemClock,
  wallMs: () => (lastWallMs = Math.max(lastWallMs + 1, Math.round(systemClock.wallMs()))),
};

/** What a run of a role sees of the site. */
export interface Surroundings {
  readonly blockSize: number;
  readonly disks: readonly DiskModel[];
  /** The agent's state directory, the target's data directory, and the machine's directory in it. */
  readonly state: string;
  readonly data: string;
  readonly store: string;
  readonly vaultKey: string;
  readonly intervalMs: number;
  /** When a resync may read and send, and from which share of a disk on changes wait for that. */
  resyncWindow(): ResyncWindow;
  readonly resyncAtDirtyRatio: number;
  readonly hasher: BlockHasher | undefined;
  /** What freezes around the agent's cuts, if anything. */
  readonly app: AppConsistency | undefined;
  /** What the agent is told that its machine is. */
  readonly definition: MachineDefinition | null;
  /** Why it makes no points now. */
  readonly held: string | null;
  /** Bounds of copy-before-write: memory, and as much again in the scratch file. */
  readonly oldPagesBytesMax: number;
  readonly agentHop: Hop;
  readonly processServer: ProcessServer | null;
  readonly fatal: Problem[];
  /** A cut whose content the model knows. */
  watched(cutAll: CutAll): CutAll;
  logger(role: string, alive: () => boolean): Logger;
}
