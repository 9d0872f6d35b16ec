/**
 * What a target does about machines whose protection was disabled: their sources are refused, and their replicas deleted where that was asked for.
 * Control says so with every answer, so nothing is remembered here; while control is away all stays as it is.
 */
import type { ReportReply } from '../control/schemas.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { Serial } from '../kit/serial.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import { refuseRemovalInUse, removeMachine } from '../store/machine-removal.ts';
import type { Target } from '../target/target.ts';

interface Parts {
  readonly target: Target;
  readonly files: Files;
  /** The target's directory. */
  readonly data: string;
  readonly logger: Logger;
}

export class UnprotectedMachines {
  readonly #parts: Parts;
  /** Deleting may take longer than control leaves between its answers. */
  readonly #oneAtATime = new Serial();
  #failed = '';

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Resolves with those whose replica was to be deleted and is gone. Called again with the next answer for those that could not be. */
  take(unprotected: ReportReply['unprotected']): Promise<string[]> {
    return this.#oneAtATime.run(() => this.#take(unprotected));
  }

  async #take(unprotected: ReportReply['unprotected']): Promise<string[]> {
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
    for (const { name, deleteReplica } of unprotected)
      if (deleteReplica && (await this.#delete(name))) deleted.push(name);
    return deleted;
  }

  async #delete(name: string): Promise<boolean> {
    const { target, files, data, logger } = this.#parts;
    try {
      await refuseRemovalInUse(files, data, name);
      await target.release(name);
      await removeMachine(files, data, name);
      logger.warn({ machine: name }, 'the replica was deleted, as was asked for');
      this.#failed = '';
      return true;
    } catch (error) {
      // Once, not with every answer.
      if (this.#failed !== messageOf(error))
        logger.error({ machine: name, error }, 'the replica that is to be deleted could not be');
      this.#failed = messageOf(error);
      return false;
    }
  }
}
