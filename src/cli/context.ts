/** What a command gets besides its arguments: the roles, and every door to the process it runs in. */
import type { ConfigSources } from '../config/sources.ts';
import type { ExitName } from '../fatal.ts';
import type { Clock } from '../kit/clock.ts';
import type { Terminal } from './output.ts';
import type { Roles } from './roles.ts';

export interface CliContext {
  readonly roles: Roles;
  readonly version: string;
  readonly terminal: Terminal;
  readonly environment: ConfigSources['environment'];
  readonly clock: Clock;
  /** Text of a small file; `-` is standard input. */
  readText(file: string): Promise<string>;
  /** What was typed after the question; null: standard input is no terminal. */
  ask(question: string): Promise<string | null>;
  /** Calls `listener` on SIGINT and SIGTERM until the returned function is called. */
  onSignal(listener: () => void): () => void;
  /** How the command ends when it does not throw; `ok` unless said otherwise. */
  exitWith(name: ExitName): void;
}
