/** What every section of the benchmark is given, and what it gives back. */

export interface Run {
  /** Empty, on the disk that is measured; removed afterwards. */
  readonly directory: string;
  /** Of the disk, bytes. */
  readonly size: number;
  /** What content and places of changes are made from. */
  readonly seed: number;
  /** Small sizes and few repetitions: shows that everything works, and roughly how fast. */
  readonly quick: boolean;
  /** For progress, on standard error. */
  readonly say: (text: string) => void;
}

export interface Measured {
  /** By its key in the report. */
  readonly figures: Readonly<Record<string, unknown>>;
  /** The same for a person. */
  readonly lines: readonly string[];
}
