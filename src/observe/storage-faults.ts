/**
 * What the file system refused this role: counted for dashboards, said in the log. A disk that fails does so often, so the log says the first
 * fault of a kind at once and the next one a while later; the count has them all.
 */
import type { Clock } from '../kit/clock.ts';
import { limits } from '../limits.ts';
import type { Logger } from './logger.ts';
import type { MetricRegistry } from './registry.ts';

/** As `posix/heard-files.ts` tells it; operation and code are of closed sets. */
interface Fault {
  readonly operation: string;
  readonly path: string;
  readonly code: string;
}

interface Seen {
  readonly kind: string;
  readonly code: string;
  faults: number;
  saidMs: number;
}

const storageFaults = {
  name: 'tidemark_storage_faults_total',
  help: 'Operations on files that the system refused, by operation and error.',
  type: 'counter',
  labels: ['kind', 'code'],
} as const;

export class StorageFaults {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #seen = new Map<string, Seen>();

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    this.#logger = logger;
  }

  hear({ operation: kind, path, code }: Fault): void {
    const now = this.#clock.monotonicMs();
    const name = `${kind} ${code}`;
    const seen = this.#seen.get(name) ?? { kind, code, faults: 0, saidMs: -Infinity };
    this.#seen.set(name, seen);
    seen.faults += 1;
    if (now - seen.saidMs < limits.observe.storageFaultEveryMs) return;
    seen.saidMs = now;
    const remedy = 'check the disk under it, and the space left there';
    this.#logger.error({ path, operation: kind, code, faults: seen.faults, remedy }, 'a file operation failed');
  }

  register(registry: MetricRegistry): void {
    registry.sampled(storageFaults, () =>
      [...this.#seen.values()].map(({ kind, code, faults }) => ({ labels: { kind, code }, value: faults })),
    );
  }
}
