/**
 * A problem someone can act on: what is wrong, what to do, and whether trying again can help. Everything thrown on purpose
 * across a room's border is a Problem; anything else that is thrown is a bug. Exit codes for problem codes stand in
 * `src/fatal.ts`, codes that travel on the wire in `src/wire/codes.ts`.
 */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly code: string;
  readonly remedy: string;
  readonly retryable: boolean;

  /**
   * @param code kebab-case, stable, listed in `src/fatal.ts` when it can end a command.
   * @param message names the thing that is wrong.
   * @param options.remedy what the reader can do about it; one sentence.
   * @param options.retryable true when the same attempt may succeed later.
   */
  constructor(code: string, message: string, options: { remedy?: string; retryable?: boolean; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.remedy = options.remedy ?? '';
    this.retryable = options.retryable ?? false;
  }
}

export function isProblem(error: unknown): error is Problem {
  return error instanceof Problem;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** `error.code` of a Node system error (`ENOENT`, `ENOSPC`, …), if it has one. */
export function systemCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}
