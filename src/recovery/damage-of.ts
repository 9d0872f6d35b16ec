/** Damage, which is told of a block and survived, apart from everything else that goes wrong. */
import { isProblem, type Problem } from '../kit/problem.ts';

export function isDamage(error: unknown): error is Problem {
  return isProblem(error) && error.code === 'damaged';
}

/** Null: it was read. @throws whatever else went wrong. */
export async function damageOf(reading: Promise<void>): Promise<Problem | null> {
  try {
    await reading;
    return null;
  } catch (error) {
    if (isDamage(error)) return error;
    throw error;
  }
}
