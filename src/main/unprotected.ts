/**
 * What a target does about machines whose protection was disabled: their sources are refused, and their replicas deleted where that was asked for.
 * Control says so with every answer, so nothing is remembered here; while control is away all stays as it is.
 */
import type { ReportReply } from '../control/report-schemas.ts';
import type { Clock } from '../kit/clock.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { Serial } from '../kit/serial.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import type { Lock } from '../posix/lock.ts';
import { takeFailoverTurn } from '../recovery/failover-directory.ts';
import { machinePaths } from '../store/machine-directory.ts';
import { holdAlone, removeMachine } from '../store/machine-removal.ts';
import type { PointsHold } from '../store/points-in-use.ts';
import type { Target } from '../target/target.ts';
import { lockIdentity } from './parts.ts';

interface Parts {
  readonly target: Target;
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  /** The target's directory. */
  readonly data: string;
  readonly logger: Logger;
}

/** What became of replicas that are to be deleted. */
export interface Deletions {
  /** Names of those that are gone. */
  readonly deleted: readonly string[];
  /** Why the others are still there, by machine. */
  readonly undeleted: ReadonlyMap<string, Problem>;
}

export class UnprotectedMachines {
  readonly #parts: Parts;
  /** Deleting may take longer than control leaves between its answers. */
  readonly #oneAtATime = new Serial();
  /** Of the answer before, by machine. */
  #undeleted: Deletions['undeleted'] = new Map();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Called again with the next answer for those that could not be deleted. */
  take(unprotected: ReportReply['unprotected']): Promise<Deletions> {
    return this.#oneAtATime.run(() => this.#take(unprotected));
  }

  async #take(unprotected: ReportReply['unprotected']): Promise<Deletions> {
    const { target } = this.#parts;
    const refusals = unprotected.map(({ name }): [string, Problem] => [
      name,
      new Problem('unprotected', `protection of ${name} was disabled`, {
        remedy: 'stop its agent, or protect it again',
        retryable: true,
      }),
    ]);
    target.refuse(new Map(refusals));
    const deleted: string[] = [];
    const undeleted = new Map<string, Problem>();
    for (const { name, deleteReplica } of unprotected) {
      if (!deleteReplica) continue;
      const problem = await this.#delete(name);
      if (problem) undeleted.set(name, problem);
      else deleted.push(name);
    }
    this.#undeleted = undeleted;
    return { deleted, undeleted };
  }

  /** Null: it is gone. */
  async #delete(machine: string): Promise<Problem | null> {
    const { target, files, clock, random, data, logger } = this.#parts;
    try {
      // Nobody starts the machine from what is being deleted.
      const turn = await this.#turn(machine);
      let alone: PointsHold | null = null;
      try {
        alone = await holdAlone({ files, clock, random, data, machine });
        await target.release(machine);
        await removeMachine(files, data, machine);
      } finally {
        await alone?.release();
        await turn?.release();
      }
      logger.warn({ machine }, 'the replica was deleted, as was asked for');
      return null;
    } catch (error) {
      // Once, not with every answer.
      if (this.#undeleted.get(machine)?.message !== messageOf(error))
        logger.error({ machine, error }, 'the replica that is to be deleted could not be');
      return problemFrom(error);
    }
  }

  /** Null: there is nothing that could be started. */
  async #turn(machine: string): Promise<Lock | null> {
    const { files, clock, data } = this.#parts;
    if (!(await files.exists(machinePaths(data, machine).directory))) return null;
    return await takeFailoverTurn({ files, clock, data, machine }, lockIdentity(clock, 'deletion of the replica'));
  }
}

function problemFrom(error: unknown): Problem {
  if (isProblem(error)) return error;
  return new Problem('store-failed', messageOf(error), {
    remedy: 'see whether the file system of the target can be written; it is tried again by itself',
    retryable: true,
    cause: error,
  });
}
