/** What `tidemark failover` needs done (`roles.ts`). */
import type { TargetConfig } from '../config.ts';

type Vault = Pick<TargetConfig, 'data' | 'vault'>;

export interface MachineOfVault extends Vault {
  readonly machine: string;
}

export interface FailoverRequest extends MachineOfVault {
  /** By number or rank, or the newest proven one whose cut was not later; left out: the newest proven one. */
  readonly point: number | 'latest' | 'proven' | { readonly atMs: number } | undefined;
  /** TCP: on the loopback address; with TLS also on another one of this host. */
  readonly listen: 'unix' | 'tcp' | { readonly tls: string };
  /** What may be written, map included; left out: as much as `limits.recovery` says for a test, half of what is free at most, everything for an unplanned failover. */
  readonly spaceBytes: number | undefined;
}

/** Starting the machine to see that it starts. */
export interface BootRequest {
  /** `serial:TEXT`, `agent`, `tcp:PORT` or `tcp:ADDRESS/PREFIX:PORT`. */
  readonly probe: string;
  /** From the machine's start to the probe's answer. */
  readonly answerSeconds: number;
  /** The machine goes on, and the command with it, until it is interrupted. */
  readonly keepRunning: boolean;
}

export interface BootReport {
  readonly answered: boolean;
  /** What answered. */
  readonly detail: string;
  /** From the beginning of the command to the answer: the measured recovery time. */
  readonly seconds: number;
  readonly accelerator: 'kvm' | 'tcg';
  /** Why it was emulated; null: it was not. */
  readonly withoutKvm: string | null;
}

export interface ServedDisk {
  readonly name: string;
  readonly size: number;
  /** Null: it is not served now. */
  readonly uri: string | null;
  /** What qemu-img and its like take in its place, as words for a shell; null: the URI itself. */
  readonly qemuImage: string | null;
  /** Why it takes no writes now; null: it does, or it is not served. */
  readonly trouble: DiskTrouble | null;
}

export interface DiskTrouble {
  /** `full`: it goes on where there is room; `read-only`: it does not. */
  readonly code: 'full' | 'read-only';
  readonly message: string;
  readonly remedy: string;
}

export interface FailoverReport {
  readonly id: string;
  readonly kind: 'test' | 'unplanned';
  readonly machine: string;
  readonly point: number;
  /** Null: `points.log` no longer says. */
  readonly cutTimeMs: number | null;
  readonly createdMs: number;
  readonly state: 'starting' | 'running' | 'committed' | 'ending';
  readonly generation: number;
  /** Whether its disks can be reached now. */
  readonly served: boolean;
  readonly disks: readonly ServedDisk[];
  /** Directory with the certificates clients need; null: it is served without TLS. */
  readonly certificates: string | null;
  /** One line for a shell that starts the machine; null: its definition is not known, or no firmware for it is installed here. */
  readonly qemu: string | null;
  /** File with the machine as a libvirt domain. */
  readonly domainXml: string | null;
  readonly directory: string;
}

export interface BootedReport extends FailoverReport {
  readonly boot: BootReport;
}

export interface FailoverRoles {
  /** Beside the running replication. */
  testFailover(request: FailoverRequest): Promise<FailoverReport>;
  /**
   * As `testFailover`, and starts the machine on it. `proven` is called when it answered, `unproven` when it did not: the test is there then,
   * too. Rejects with Problem `not-bootable`, `interrupted`; or with what says that no test was made (`bad-argument`, `not-found`), and nobody is called.
   */
  bootTestFailover(
    request: FailoverRequest & { readonly boot: BootRequest },
    told: { proven(report: BootedReport): void; unproven(report: FailoverReport): void },
    signal: AbortSignal,
  ): Promise<void>;
  /** The replica becomes the primary. Asking again gives the one that is there. */
  unplannedFailover(request: FailoverRequest): Promise<FailoverReport>;
  /** What was written in it is removed, the source is the primary again. */
  cancelFailover(request: MachineOfVault): Promise<{ readonly id: string }>;
  commitFailover(request: MachineOfVault): Promise<FailoverReport>;
  /** Of tests: this one, all, or (undefined) the only one. */
  cleanUpFailovers(
    request: MachineOfVault & { readonly which: { readonly id: string } | 'all' | undefined },
  ): Promise<{ readonly removed: readonly string[] }>;
  listFailovers(
    request: Vault & { readonly machine: string | undefined },
  ): Promise<{ readonly failovers: readonly FailoverReport[] }>;
}
