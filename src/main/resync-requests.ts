/**
 * Carries out what control asks an agent to compare. Control repeats a request with every answer until it hears that it is done
 * (`control/resync.ts`), so nothing is remembered here beyond the process: an agent that starts anew is asked anew.
 */
import type { AgentReport } from '../agent/agent.ts';
import type { ResyncRequest } from '../agent/resync.ts';
import type { ReportReply } from '../control/report-schemas.ts';

type Order = NonNullable<ReportReply['resync']>;

export class ResyncRequests {
  readonly #resync: (request: ResyncRequest) => void;
  #order: Order | null = null;
  #done: number | null = null;

  constructor(resync: (request: ResyncRequest) => void) {
    this.#resync = resync;
  }

  /** An answer of control came; each request is passed on once. Returns whether this one is new. */
  take(order: Order | null): boolean {
    if (order === null || order.id === this.#order?.id || order.id === this.#done) return false;
    this.#order = order;
    for (const now of [true, false]) {
      const disks = order.disks.filter((disk) => disk.now === now).map(({ name }) => name);
      if (disks.length > 0) this.#resync({ disks, now });
    }
    return true;
  }

  /**
   * The request that is done: every disk of it that is captured here has a point and is not being compared. One that has no point yet, or
   * whose session was not opened yet, knows nothing of its replica, and says nothing here.
   */
  done({ disks }: Pick<AgentReport, 'disks'>): number | null {
    const open = this.#order?.disks.some(({ name }) => {
      const disk = disks.find((one) => one.disk === name);
      return disk !== undefined && (disk.resync !== null || disk.newestPoint === null);
    });
    if (this.#order && open === false) {
      this.#done = this.#order.id;
      this.#order = null;
    }
    return this.#done;
  }
}
