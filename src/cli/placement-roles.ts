/** What the command line needs done about process servers and who has which machine; as `roles.ts`. */
import type { ClientConfig } from '../config.ts';

export interface ProcessServersReport {
  readonly processServers: readonly {
    readonly name: string;
    /** Where agents reach it. */
    readonly address: string;
    readonly state: 'ok' | 'busy' | 'silent';
    readonly sessions: number;
    readonly inFlightBytes: number;
    readonly windowBytes: number;
    readonly heardMs: number;
    /** How many it is (`--shards`), and how many of them are busy. */
    readonly processes: number;
    readonly busyProcesses: number;
    /** Of which it has the lease. */
    readonly machines: readonly string[];
    /** What was set as its limit; null: as it is configured. */
    readonly throttle: { readonly throttle: string; readonly timeZone: string } | null;
  }[];
}
export interface LimitRequest extends ClientConfig {
  readonly processServer: string;
  /** A table of rates (`kit/rate-table.ts`); null: as it is configured. Left out: as it was set. */
  readonly throttle: string | null | undefined;
  readonly throttleTimeZone: string | undefined;
}

export interface MoveRequest extends ClientConfig {
  readonly machine: string;
  /** Left out: the one with the most room. */
  readonly to: string | undefined;
}
export interface MoveReport {
  readonly machine: string;
  /** Null: none had it. */
  readonly from: string | null;
  readonly to: string;
  readonly address: string;
  /** False: it was there already. */
  readonly changed: boolean;
}

export interface PlacementRoles {
  processServers(request: ClientConfig): Promise<ProcessServersReport>;
  /** The process server hears of it within seconds. */
  limitProcessServer(request: LimitRequest): Promise<void>;
  /** Asks for it: who has the machine ends its session within seconds, and its agent goes there. */
  move(request: MoveRequest): Promise<MoveReport>;
}
