/** Somebody who moves an image from one place to another: the product, or what users would pick instead. */

export interface Transfer {
  readonly seconds: number;
  /** Of both sides and all their threads and children: user and system. */
  readonly cpuSeconds: number;
  /** What limits the comparison, such as who waits for the disk. */
  readonly remark?: string;
}

export interface Contender {
  readonly name: string;
  /** Moves the whole image once, to a fresh output that is removed again. */
  run(): Promise<Transfer>;
}
