/** Asking before what destroys. */
import { Problem } from '../kit/problem.ts';
import type { CliContext } from './context.ts';

/**
 * Resolves when the operator agreed: by `--yes`, or by typing `name` when asked on a terminal.
 * @param what what will happen, as a sentence without its full stop.
 * @throws Problem `bad-argument` when nobody agreed; nothing has changed.
 */
export async function confirm(context: CliContext, what: string, name: string, yes: boolean): Promise<void> {
  if (yes) return;
  const answer = await context.ask(`${what}. Type ${name} to go on: `);
  if (answer?.trim() === name) return;
  const message = answer === null ? `${what}, and nobody can be asked here` : 'not confirmed; nothing was changed';
  throw new Problem('bad-argument', message, { remedy: 'pass --yes if that is what you want' });
}
