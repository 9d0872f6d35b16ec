/** Sizes of disks as people write them. */

/** Bytes of `512M` or `2G`. @throws Error when it is none, below 8 MiB, or not a multiple of `unitBytes`. */
export function parseSize(text: string, unitBytes: number): number {
  const match = /^(\d+)([KMG]?)$/.exec(text);
  const unit = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }[match?.[2] ?? ''] ?? 1;
  const size = Number(match?.[1] ?? Number.NaN) * unit;
  if (!Number.isSafeInteger(size) || size < 8 * 1024 ** 2 || size % unitBytes !== 0) {
    throw new Error(`--size ${text} is not a size: write 512M or 2G, at least 8M, a multiple of ${unitBytes} bytes`);
  }
  return size;
}
