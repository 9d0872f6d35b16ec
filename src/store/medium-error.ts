/** Reads that failed because of where they read, told from those that failed because of who read. For who has no key, too. */
import { isProblem, systemCode } from '../kit/problem.ts';

/** What the file system says when a medium has lost what lay there: trying again does not help for long. */
const mediumErrors = new Set(['EIO', 'EBADMSG', 'EUCLEAN', 'ENODATA']);

/** A read that failed because of where it read, not because of who read. */
export function isMediumError(error: unknown): boolean {
  const cause = isProblem(error) ? error.cause : error;
  return mediumErrors.has(systemCode(cause) ?? '');
}
