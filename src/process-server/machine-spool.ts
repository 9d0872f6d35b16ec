/** The spool of one machine, with what decides when it is written to (SPOOL.md, "When"). */
import type { Clock } from '../kit/clock.ts';
import type { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { Backlog } from './backlog.ts';
import type { Remains } from './delivery-parts.ts';
import type { MachineRoom, Spool } from './spool.ts';
import type { SpoolOwner } from './spool-format.ts';
import type { SpoolLog } from './spool-log.ts';
import type { RecoveredSpool } from './spool-recovery.ts';
import type { SpoolLevel } from './spool-report.ts';
import { SpoolWriter } from './spool-writer.ts';

export interface MachineSpoolOptions {
  readonly machine: string;
  readonly backlog: Backlog;
  /** As of now. */
  readonly owner: () => SpoolOwner;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A batch can not be written or sent, ever. */
  readonly failed: (error: unknown) => void;
  /** So many bytes of a frame went to the spool. */
  readonly wrote: (bytes: number) => void;
}

export class MachineSpool {
  readonly #spool: Spool;
  readonly #room: MachineRoom;
  readonly #options: MachineSpoolOptions;
  #log: SpoolLog | null = null;
  #writer: SpoolWriter | null = null;

  constructor(spool: Spool, options: MachineSpoolOptions) {
    this.#spool = spool;
    this.#options = options;
    this.#room = spool.join(options.machine);
  }

  get usedBytes(): number {
    return this.#room.usedBytes;
  }

  /** Why the newest write failed, until one succeeds. */
  get failure(): Problem | null {
    return this.#writer?.failure ?? null;
  }

  get level(): SpoolLevel {
    return this.failure ? 'full' : this.#room.level;
  }

  /** The target can take up a layer again: what waits may be written. */
  begin(recovered?: RecoveredSpool): void {
    const { backlog, owner } = this.#options;
    const log = this.#spool.log(this.#room, owner, recovered);
    this.#log = log;
    backlog.spoolTo(log);
    this.#writer = new SpoolWriter({ ...this.#options, log });
  }

  /** @param isStalled the target keeps the head waiting. @param isTaking it does not. */
  tick(isStalled: boolean, isTaking: boolean): void {
    this.#room.note(this.#options.logger);
    if (isStalled) this.#writer?.start();
    else if (isTaking && this.#options.backlog.unreadBytes <= limits.processServer.spoolTailBytes) this.stop();
  }

  /** Nothing more is written. Idempotent. */
  stop(): void {
    this.#writer?.stop();
  }

  /** Resolves when nothing uses its files. */
  async end(remains: Remains): Promise<void> {
    this.stop();
    await this.#writer?.idle;
    await (remains === 'dropped' ? this.#log?.drop() : this.#log?.close());
    this.#spool.leave(this.#room);
  }
}
