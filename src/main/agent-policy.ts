/**
 * What an agent goes by: its own configuration, else the newest policy control told it, else `agentDefaults`. Looked up anew each time, so
 * that a policy that is changed counts from the next look on.
 */
import type { ResyncWindow } from '../agent/resync.ts';
import { agentDefaults, type AgentConfig } from '../config.ts';
import type { Policy } from '../control/schemas.ts';
import { parseDayWindow, type DayWindow } from '../kit/day-window.ts';

const secondMs = 1000;
const hourMs = 3600 * secondMs;

export class AgentPolicy {
  readonly #config: AgentConfig;
  readonly #policy: () => Policy | null;
  #window: { readonly key: string; readonly parsed: DayWindow } | null = null;

  constructor(config: AgentConfig, policy: () => Policy | null) {
    this.#config = config;
    this.#policy = policy;
  }

  get intervalMs(): number {
    const { intervalSeconds = this.#told.intervalSeconds } = this.#config;
    return intervalSeconds * secondMs;
  }

  get compression(): Policy['compression'] {
    return this.#config.compression ?? this.#told.compression;
  }

  /** Of disks that are new. */
  get blockSize(): number {
    return this.#config.blockSize ?? this.#told.blockSize;
  }

  /** 0 to 1; Infinity: never. */
  get resyncAtDirtyRatio(): number {
    const { resyncAtDirtyPercent = this.#told.resyncAtDirtyPercent } = this.#config;
    return resyncAtDirtyPercent === 'never' ? Infinity : resyncAtDirtyPercent / 100;
  }

  /** Between app-consistent points; null: none are made. */
  get appEveryMs(): number | null {
    const { appConsistentHours = this.#told.appConsistentHours } = this.#config;
    return appConsistentHours === 0 ? null : appConsistentHours * hourMs;
  }

  get resyncTimeZone(): string {
    return this.#config.resyncTimeZone ?? this.#told.resyncTimeZone;
  }

  /** @param nowMs since the Unix epoch. */
  resyncWindow(nowMs: number): ResyncWindow {
    const { resyncWindow = this.#told.resyncWindow } = this.#config;
    if (resyncWindow === null) return { open: true };
    const key = `${resyncWindow} ${this.resyncTimeZone}`;
    if (this.#window?.key !== key) this.#window = { key, parsed: parseDayWindow(resyncWindow, this.resyncTimeZone) };
    const { parsed } = this.#window;
    return parsed.isOpen(nowMs) ? { open: true } : { open: false, opensAtMs: parsed.opensAt(nowMs) };
  }

  get #told(): Pick<Policy, keyof typeof agentDefaults> {
    return this.#policy() ?? agentDefaults;
  }
}
