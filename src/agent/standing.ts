/** How the agent stands: what its loop and its cycles set, and its report tells. */
import type { PointStages } from './flow.ts';

export type AgentState = 'connecting' | 'opening' | 'idle' | 'cycling' | 'paused' | 'stopped' | 'critical';

export interface Trouble {
  readonly reason: string;
  readonly remedy: string;
}

export const untroubled: Trouble = { reason: '', remedy: '' };

export interface LastPoint {
  readonly point: number;
  readonly cutTimeMs: number;
  readonly writes: readonly number[];
}

export class Standing {
  state: AgentState = 'connecting';
  trouble = untroubled;
  lastPoint: LastPoint | null = null;
  /** Of the last point. */
  stages: PointStages | null = null;
  /** Milliseconds since the Unix epoch; null: a cut is being made, or none can be. */
  nextCutMs: number | null = null;
}
