/** What tests of freezing share: a directory, a log that is kept, hooks that are shell scripts, and an `AppConsistency` over them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { AppConsistency } from '../../src/agent/app-consistency.ts';
import { GuestAgent } from '../../src/agent/guest-agent.ts';
import { Hook } from '../../src/agent/hooks.ts';
import type { CutReport } from '../../src/capture/contract.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import type { LogFields, Logger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';

export const report: CutReport = { cutTimeMs: 1, heldMs: 0, writes: [0] };

export interface Wanted {
  readonly pre?: string;
  readonly post?: string;
  readonly socket?: string;
  readonly timeoutMs?: number;
}

export class QuietSurroundings {
  readonly directory = mkdtempSync(path.join(tmpdir(), 'tidemark-quiet-'));
  readonly said: string[] = [];
  readonly #opened: AppConsistency[] = [];

  get socket(): string {
    return path.join(this.directory, 'ga.sock');
  }

  get marker(): string {
    return path.join(this.directory, 'frozen.json');
  }

  /** A shell script; its path. */
  script(name: string, text: string, mode = 0o755): string {
    const file = path.join(this.directory, name);
    writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode });
    return file;
  }

  async open({ pre, post, socket, timeoutMs = 250 }: Wanted, directory = this.directory): Promise<AppConsistency> {
    const clock = systemClock;
    const hook = (which: 'pre' | 'post', text: string | undefined): Promise<Hook> | null =>
      text === undefined ? null : Hook.of({ which, path: this.script(which, text), machine: 'm1', timeoutMs, clock });
    const app = await AppConsistency.open({
      pre: await hook('pre', pre),
      post: await hook('post', post),
      guestAgent: socket === undefined ? null : new GuestAgent({ socket, timeoutMs, clock, random: systemRandom }),
      directory,
      files: posixFiles,
      clock,
      random: systemRandom,
      logger: this.#logger(),
    });
    this.#opened.push(app);
    return app;
  }

  async remove(): Promise<void> {
    for (const app of this.#opened) await app.close();
    rmSync(this.directory, { recursive: true, force: true });
  }

  #logger(): Logger {
    const say = (fields: LogFields, message: string): void => {
      this.said.push(`${message} ${JSON.stringify(fields)}`);
    };
    const logger: Logger = { debug: say, info: say, warn: say, error: say, child: () => logger };
    return logger;
  }
}

/** @throws when `what` does not hold within `ms`. */
export async function until(what: () => boolean, ms = 3000): Promise<void> {
  const endMs = systemClock.monotonicMs() + ms;
  while (!what()) {
    if (systemClock.monotonicMs() > endMs) throw new Error(`not in ${ms} ms: ${what.toString()}`);
    await systemClock.sleep(2);
  }
}
