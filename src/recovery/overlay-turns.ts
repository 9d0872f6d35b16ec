/** Turns on ranges: jobs that touch a common page run one after another in call order, all others side by side. */
interface Turn {
  readonly from: number;
  readonly end: number;
  readonly done: Promise<void>;
}

export class RangeTurns {
  readonly #turns = new Set<Turn>();

  /** Runs `job` once every earlier one whose range overlaps [from, end) has ended. */
  async run<T>(from: number, end: number, job: () => Promise<T>): Promise<T> {
    const before = [...this.#turns].filter((turn) => turn.from < end && from < turn.end);
    const { promise: done, resolve } = Promise.withResolvers<undefined>();
    const turn: Turn = { from, end, done };
    this.#turns.add(turn);
    try {
      for (const each of before) await each.done;
      return await job();
    } finally {
      this.#turns.delete(turn);
      resolve(undefined);
    }
  }

  /** Resolves when all that run or wait now have ended. */
  async idle(): Promise<void> {
    for (const turn of [...this.#turns]) await turn.done;
  }
}
