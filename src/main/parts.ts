/** What every role is made of, and the few things all of them do alike: metrics and health, the log, ending. */
import type { RoleCommon } from '../config.ts';
import type { Running } from '../cli/roles.ts';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { registerProcessSeries } from '../observe/metrics.ts';
import type { Logger } from '../observe/logger.ts';
import { createRegistry, type MetricRegistry } from '../observe/registry.ts';
import { startObserveServer, type Readiness } from '../observe/server.ts';
import { StorageFaults } from '../observe/storage-faults.ts';
import type { Files } from '../posix/files.ts';
import { heardFiles } from '../posix/heard-files.ts';
import type { LockIdentity } from '../posix/lock.ts';
import type { Role } from '../transport/connection.ts';
import { loadCredentials, type Credentials } from '../transport/credentials.ts';

export interface Parts {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly version: string;
  /** A logger of the level a role was configured with. */
  readonly loggerOf: (common: Pick<RoleCommon, 'logLevel'>, role: string) => Logger;
}

/** What one role is made of: no fault of its files passes unseen. */
export interface RoleParts extends Parts {
  readonly storageFaults: StorageFaults;
}

export function partsOfRole(parts: Parts, logger: Logger): RoleParts {
  const storageFaults = new StorageFaults(parts.clock, logger);
  const files = heardFiles(parts.files, (fault) => {
    storageFaults.hear(fault);
  });
  return { ...parts, files, storageFaults };
}

/** Certificate and key from a directory, when they are of the role (and, for an agent, the machine) that is to run. */
export async function credentialsFor(
  { files, clock }: Parts,
  directory: string,
  role: Role,
  name?: string,
): Promise<Credentials> {
  const credentials = await loadCredentials(files, directory, clock.wallMs());
  const { identity } = credentials;
  if (identity.role === role && (name === undefined || identity.name === name)) return credentials;
  const wanted = name === undefined ? role : `${role} ${name}`;
  throw new Problem(
    'bad-certificate',
    `the certificate in ${directory} is of ${identity.role} ${identity.name}, not of ${wanted}`,
    {
      remedy: `enroll ${name ?? `a ${role}`} with a registration key of its own, or name the right directory`,
    },
  );
}

/** How a lock's holder introduces itself to whoever asks. */
export function lockIdentity(clock: Clock, role: string): LockIdentity {
  return { pid: process.pid, role, since: new Date(clock.wallMs()).toISOString() };
}

/** Closes everything in reverse order, each even when an earlier one failed; the first failure is thrown. */
export class Closers {
  readonly #steps: (() => Promise<void> | void)[] = [];
  #closing: Promise<void> | null = null;

  add(step: () => Promise<void> | void): void {
    this.#steps.push(step);
  }

  close(): Promise<void> {
    this.#closing ??= this.#run();
    return this.#closing;
  }

  async #run(): Promise<void> {
    const failures: unknown[] = [];
    for (const step of this.#steps.reverse()) {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    }
    const [first] = failures;
    if (failures.length > 0) throw first instanceof Error ? first : new Error(String(first));
  }
}

/** What a start that found its directory full or not writable ends with; null: it is something else. */
function storageProblem(directory: string, error: unknown): Problem | null {
  if (isProblem(error)) return null;
  const options = (remedy: string): { remedy: string; cause: unknown } => ({ remedy, cause: error });
  switch (systemCode(error)) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new Problem('full', `${directory}: ${messageOf(error)}`, options('make room there, then start again'));
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return new Problem(
        'not-writable',
        `${directory}: ${messageOf(error)}`,
        options('make the directory writable for this program, or name another one with --data'),
      );
    default:
      return null;
  }
}

/** A role under construction: what fails half-way closes what was opened. */
export class RoleBuilder {
  readonly closers = new Closers();
  readonly registry: MetricRegistry = createRegistry();
  readonly #reachable: { what: string; where: string }[] = [];
  readonly #ended = Promise.withResolvers<undefined>();

  reachable(what: string, where: string): void {
    this.#reachable.push({ what, where });
  }

  /** The role can not go on; its process ends with the problem's exit code. */
  fail(error: unknown): void {
    this.#ended.reject(error instanceof Error ? error : new Error(String(error)));
  }

  /** Serves /metrics, /healthz and /readyz. */
  async observe(
    parts: RoleParts,
    common: RoleCommon,
    logger: Logger,
    ready: () => Readiness | Promise<Readiness>,
  ): Promise<void> {
    parts.storageFaults.register(this.registry);
    const series = registerProcessSeries(this.registry, parts.clock.wallMs());
    this.closers.add(() => {
      series.close();
    });
    const { host, port } = common.metrics;
    const server = await startObserveServer({ host, port, registry: this.registry, logger, ready });
    this.closers.add(() => server.close());
    this.reachable('metrics', `${server.url}/metrics`);
  }

  running(): Running {
    const ended = this.#ended.promise;
    ended.catch(() => undefined);
    return {
      reachable: this.#reachable,
      ended,
      close: async () => {
        await this.closers.close();
        this.#ended.resolve(undefined);
      },
    };
  }

  /** Builds a role that keeps its files in `directory`; on failure closes what was opened and passes the failure on. */
  static async build(make: (builder: RoleBuilder) => Promise<void>, directory?: string): Promise<Running> {
    const builder = new RoleBuilder();
    try {
      await make(builder);
      return builder.running();
    } catch (error) {
      await builder.closers.close().catch(() => undefined);
      throw (directory === undefined ? null : storageProblem(directory, error)) ?? error;
    }
  }
}
