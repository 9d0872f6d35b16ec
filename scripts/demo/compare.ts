/** Byte-by-byte comparison of two files, in order, without loading them. */
import { open } from 'node:fs/promises';

/** Null when identical; else where they first differ (a different size differs at the shorter one's end). */
export async function firstDifference(a: string, b: string): Promise<number | null> {
  const [left, right] = await Promise.all([open(a, 'r'), open(b, 'r')]);
  try {
    const [leftSize, rightSize] = [(await left.stat()).size, (await right.stat()).size];
    const step = 4 * 1024 * 1024;
    const [x, y] = [Buffer.allocUnsafeSlow(step), Buffer.allocUnsafeSlow(step)];
    const end = Math.min(leftSize, rightSize);
    for (let at = 0; at < end; at += step) {
      const length = Math.min(step, end - at);
      await Promise.all([left.read(x, 0, length, at), right.read(y, 0, length, at)]);
      if (x.compare(y, 0, length, 0, length) === 0) continue;
      for (let i = 0; i < length; i += 1) if (x[i] !== y[i]) return at + i;
    }
    return leftSize === rightSize ? null : end;
  } finally {
    await left.close();
    await right.close();
  }
}
