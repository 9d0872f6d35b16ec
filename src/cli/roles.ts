/**
 * What the command line needs done, as one interface. `main.ts` plugs the real parts in, tests plug in fakes; a command only
 * parses, calls one of these and prints what came back. Failures are thrown as Problems.
 *
 * Times are milliseconds since the Unix epoch, sizes bytes; `null` means not known.
 */
import type { Priority } from '../kit/shares.ts';
import type { Address } from '../config/tables.ts';
import type {
  AgentConfig,
  ClientConfig,
  ControlConfig,
  ProcessServerConfig,
  TargetConfig,
  UpConfig,
} from '../config.ts';
import type { FailoverRoles, MachineOfVault } from './failover-roles.ts';
import type { PlacementRoles } from './placement-roles.ts';
import type { StatusReason, StatusReport } from './status-report.ts';

/** Something that runs until it is closed. */
export interface Running {
  /** Where it can be reached, in words: `agents: 0.0.0.0:9443`, `metrics: http://127.0.0.1:9464/metrics`. */
  readonly reachable: readonly { readonly what: string; readonly where: string }[];
  /** Rejects when it can not go on; resolves when it was closed. */
  readonly ended: Promise<void>;
  /** Ends gracefully. Idempotent. */
  close(): Promise<void>;
}

/** Where recovery commands find points: a target's directory and its vault key or recovery file. Nothing else is needed. */
export type Vault = Pick<TargetConfig, 'data' | 'vault'>;

/** A point by number, or the newest committed, or the newest proven one. */
export type PointChoice = number | 'latest' | 'proven';

export interface DiskOfPoint extends Vault {
  readonly machine: string;
  /** Left out: the machine's only disk. */
  readonly disk: string | undefined;
  readonly point: PointChoice;
}

export interface Progress {
  /** Called now and then; `doneBytes` of `totalBytes`. */
  report(doneBytes: number, totalBytes: number): void;
}

export interface ExportRequest extends DiskOfPoint {
  /** File to write, or block device (raw only). Must not be there unless `overwrite`. */
  readonly to: string;
  readonly overwrite: boolean;
  readonly format: 'raw' | 'qcow2';
  /** Of qcow2. */
  readonly compress: boolean;
  /** PATH of the caller, for `qemu-img`. */
  readonly programPath: string;
}
export interface ExportReport {
  readonly machine: string;
  readonly disk: string;
  readonly point: number;
  readonly cutTimeMs: number;
  readonly size: number;
  readonly format: 'raw' | 'qcow2';
  /** Bytes of data; the rest are holes. */
  readonly dataBytes: number;
  /** Bytes of them that were right already, from an export that was cut short. */
  readonly keptBytes: number;
  /** Hex. */
  readonly root: string;
  readonly file: string;
  readonly seconds: number;
}

export interface NbdRequest extends DiskOfPoint {
  readonly listen: { readonly socket: string } | Address | { readonly tls: Address };
}

export interface VerifyRequest extends Vault {
  /** Left out: all machines. */
  readonly machine: string | undefined;
  readonly disk: string | undefined;
  readonly point: PointChoice | 'all';
  /** False: only what needs no key. */
  readonly content: boolean;
}
export interface VerifiedPoint {
  readonly machine: string;
  readonly disk: string;
  readonly point: number;
  readonly ok: boolean;
  /** Blocks rebuilt and checked against their leaf; null: the content was not checked. */
  readonly blocks: number | null;
  /** The first blocks that failed; without the key, those that take pages from stored bytes that do not check. */
  readonly damagedBlocks: readonly number[];
  readonly damagedBlockCount: number;
  /** The leaves of the stored records make the committed root. */
  readonly rootMatches: boolean;
  readonly root: string;
}
/** What was found in a machine's files beside its points. */
export interface MachineCheck {
  readonly machine: string;
  /** That `points.log` has; null: it could not be read. */
  readonly points: number | null;
  readonly findings: readonly { readonly severity: 'damage' | 'note'; readonly text: string }[];
}
export interface VerifyReport {
  /** Nothing of what was checked is damaged. */
  readonly ok: boolean;
  /** Whether stored content was opened and matched with its leaves; `no-key`: it was asked for, and there is no key file. */
  readonly content: 'checked' | 'left-out' | 'no-key';
  /** Whether every stored byte was matched with its digest, needed or not. */
  readonly bodies: 'checked' | 'left-out';
  readonly machines: readonly MachineCheck[];
  readonly points: readonly VerifiedPoint[];
  readonly seconds: number;
}

export interface PointReport {
  readonly machine: string;
  readonly point: number;
  readonly cutTimeMs: number;
  readonly committedMs: number;
  readonly provenMs: number | null;
  readonly damaged: boolean;
  /** The newest proof that the machine starts from it; null: there is none. */
  readonly booted: {
    readonly atMs: number;
    readonly seconds: number;
    readonly detail: string;
    /** Directory with what was heard and seen. */
    readonly evidence: string;
  } | null;
  /** Kept whatever the policy says. */
  readonly pinned: boolean;
  readonly consistency: 'crash' | 'app' | 'none';
  /** What froze the applications, and for how long; null where that is not claimed. */
  readonly evidence: string | null;
  readonly disks: readonly {
    readonly name: string;
    readonly size: number;
    readonly root: string;
    readonly kind: 'initial' | 'delta' | 'resync';
    /** Bytes of changed pages this point added. */
    readonly payloadBytes: number;
    /** Write requests the capture had accepted at the cut, where it counts them. */
    readonly writes: number | null;
  }[];
}

/** Points that were due and not made. */
export interface GapReport {
  readonly machine: string;
  /** The newest point whose cut was before; null: there is none. */
  readonly afterPoint: number | null;
  /** When the first of them was due. */
  readonly atMs: number;
  readonly points: number;
  readonly reason: string;
  readonly detail: string;
}

export interface PointsReport {
  /** By machine, oldest first. */
  readonly points: readonly PointReport[];
  readonly gaps: readonly GapReport[];
}

export interface ReleaseReport {
  readonly machine: string;
  /** Who had it by a lease; null: nobody did, and nothing was changed. */
  readonly from: { readonly server: string | null; readonly epoch: number; readonly sinceMs: number } | null;
}

export type EnrolledRole = 'agent' | 'process-server' | 'target';

export interface TokenReport {
  /** Secret; shown once. */
  readonly registrationKey: string;
  readonly role: EnrolledRole;
  readonly name?: string | undefined;
  readonly expiresMs: number;
}
export interface EnrollReport {
  readonly role: EnrolledRole;
  readonly name: string;
  /** Directory that holds certificate and key now. */
  readonly credentials: string;
  readonly expiresMs: number;
}

export interface PolicyChange {
  readonly compression?: 'lz4' | 'zstd' | 'off' | undefined;
  readonly intervalSeconds?: number | undefined;
  /** Null: a multiple of the interval. */
  readonly rpoTargetSeconds?: number | null | undefined;
  readonly blockSize?: number | undefined;
  readonly retentionHours?: number | undefined;
  /** Null: points are not thinned. */
  readonly thinAfterHours?: number | null | undefined;
  readonly thinToMinutes?: number | undefined;
  /** Null: a resync may begin at any time. */
  readonly resyncWindow?: string | null | undefined;
  readonly resyncTimeZone?: string | undefined;
  readonly resyncAtDirtyPercent?: number | 'never' | undefined;
  readonly appConsistentHours?: number | undefined;
  /** A table of rates (`kit/rate-table.ts`). Null: no limit. */
  readonly throttle?: string | null | undefined;
  readonly throttleTimeZone?: string | undefined;
  readonly priority?: Priority | undefined;
}
/** What is said of the machine itself; null: as its policy. Left out: as it is. */
export interface MachineChange {
  readonly throttle?: string | null | undefined;
  readonly priority?: Priority | null | undefined;
}
export interface ProtectRequest extends ClientConfig {
  readonly machine: string;
  readonly disks: readonly string[];
  /** Name of the policy; made or changed first when `change` says something. */
  readonly policy: string;
  readonly change: PolicyChange;
  readonly own: MachineChange;
  /** Text of a libvirt domain, or what the machine is; left out: as it is known, or not. */
  readonly definition: { readonly xml: string } | Hardware | undefined;
}
/** Checked by who takes it. */
export interface Hardware {
  readonly cpus: number | undefined;
  readonly memoryBytes: number | undefined;
  readonly firmware: string;
  readonly type: string;
  readonly bus: string;
  readonly nics: readonly Readonly<Record<string, string>>[];
}
export interface ProtectReport {
  readonly machine: string;
  readonly disks: readonly string[];
  readonly policy: string;
  /** What was measured that speaks against it; it is set all the same. */
  readonly warnings: readonly StatusReason[];
}

/** Whether an agent makes points; it captures what changes in either case. */
export interface PauseRequest extends ClientConfig {
  readonly machine: string;
  readonly paused: boolean;
}
export interface PauseReport {
  readonly machine: string;
  readonly paused: boolean;
  /** False: it was so before. */
  readonly changed: boolean;
}

export interface UnprotectRequest extends ClientConfig {
  readonly machine: string;
  /** Has the target delete all points and keys of the machine. */
  readonly deleteReplica: boolean;
}
export interface UnprotectReport {
  readonly machine: string;
  readonly deleteReplica: boolean;
}

export interface ResyncRequest extends ClientConfig {
  readonly machine: string;
  /** Left out: all. */
  readonly disks: readonly string[] | undefined;
  /** Does not wait for the window of the policy. */
  readonly now: boolean;
}
export interface ResyncReport {
  readonly machine: string;
  readonly id: number;
  /** All disks asked for and not done. */
  readonly disks: readonly { readonly name: string; readonly now: boolean }[];
  readonly agent: 'connected' | 'disconnected' | 'silent' | 'never-seen';
  /** Of the policy; null: none. */
  readonly window: string | null;
  /** Null: it is open, or there is none. */
  readonly opensAtMs: number | null;
  readonly timeZone: string;
}

export interface Roles extends FailoverRoles, PlacementRoles {
  /** Serves one failover's disks until it is ended; started by the others. */
  serveFailover(request: MachineOfVault & { readonly id: string }): Promise<Running>;

  startUp(config: UpConfig): Promise<Running>;
  startControl(config: ControlConfig): Promise<Running>;
  startTarget(config: TargetConfig): Promise<Running>;
  startProcessServer(config: ProcessServerConfig): Promise<Running>;
  /** One of the processes that `startProcessServer` starts behind one port. */
  startShard(plan: {
    readonly index: number;
    readonly of: number;
    readonly config: ProcessServerConfig;
  }): Promise<Running>;
  startAgent(config: AgentConfig): Promise<Running>;

  /** Read-only NBD export of a point. */
  serveNbd(request: NbdRequest): Promise<Running>;
  /** Sparse. Rejects with Problem `interrupted` when `signal` aborts; a raw export then goes on when it is asked for again. */
  exportPoint(request: ExportRequest, progress: Progress, signal: AbortSignal): Promise<ExportReport>;
  verify(request: VerifyRequest, progress: Progress, signal: AbortSignal): Promise<VerifyReport>;
  /** Pinned points are never retired. Resolves when it is on record. */
  pinPoint(
    request: Vault & { readonly machine: string; readonly point: number; readonly pinned: boolean },
  ): Promise<void>;
  /** What a lease held may be had by a process server without one. Resolves when it is on record. */
  releaseMachine(request: Vault & { readonly machine: string }): Promise<ReleaseReport>;
  listPoints(request: Vault & { readonly machine: string | undefined }): Promise<PointsReport>;
  /** Writes the recovery file (0600). Must not exist. */
  keyExport(request: Vault & { readonly to: string }): Promise<{ readonly file: string; readonly vaultId: string }>;

  createToken(
    request: ClientConfig & { readonly role: EnrolledRole; readonly name: string | undefined; readonly hours: number },
  ): Promise<TokenReport>;
  /** Makes a key in `into`, has its certificate made with the registration key. */
  enroll(request: {
    readonly controlUrl: string;
    readonly registrationKey: string;
    readonly role: EnrolledRole;
    readonly name: string;
    readonly into: string;
  }): Promise<EnrollReport>;
  protect(request: ProtectRequest): Promise<ProtectReport>;
  pause(request: PauseRequest): Promise<PauseReport>;
  /** The machine is forgotten at once; its agent and target hear of it within seconds. */
  unprotect(request: UnprotectRequest): Promise<UnprotectReport>;
  /** Asks for it; the agent begins when it hears of it. */
  resync(request: ResyncRequest): Promise<ResyncReport>;
  status(request: ClientConfig & { readonly machine: string | undefined }): Promise<StatusReport>;
}
