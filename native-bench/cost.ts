/**
 * CPU time by the operating system's own count of this process (getrusage(2), all its threads), user and system apart.
 *
 * The sum is exact to the microsecond. How it is split is guessed by the kernel from its clock ticks (4 ms) and smeared over what follows, so the two
 * parts are right only for a lap much longer than that. Whoever has short laps measures the split apart, in a long one (`withSplitOf`).
 */

/** CPU seconds per GB (10⁹ bytes) of plain data. */
export interface CpuPerGB {
  readonly user: number;
  readonly system: number;
  readonly total: number;
}

/** CPU seconds that went into one kind of work, lap after lap. */
export class Meter {
  #user = 0;
  #system = 0;

  get seconds(): number {
    return this.#user + this.#system;
  }

  /** Counts all that this process does until the function it returns is called. */
  start(): () => void {
    const before = process.cpuUsage();
    return () => {
      const { user, system } = process.cpuUsage(before);
      this.#user += user / 1e6;
      this.#system += system / 1e6;
    };
  }

  /** Counts all that this process does until `work` is done. */
  async during(work: () => unknown): Promise<void> {
    const stop = this.start();
    await work();
    stop();
  }

  /** The same time, split as that of `long`. */
  withSplitOf(long: Meter): Meter {
    const split = new Meter();
    const systemShare = long.seconds === 0 ? 0 : long.#system / long.seconds;
    split.#system = this.seconds * systemShare;
    split.#user = this.seconds - split.#system;
    return split;
  }

  perGB(bytes: number): CpuPerGB {
    const gigabytes = bytes / 1e9;
    return {
      user: rounded(this.#user / gigabytes),
      system: rounded(this.#system / gigabytes),
      total: rounded(this.seconds / gigabytes),
    };
  }
}

/** To a tenth of a millisecond. */
export function rounded(seconds: number): number {
  return Math.round(seconds * 1e4) / 1e4;
}
