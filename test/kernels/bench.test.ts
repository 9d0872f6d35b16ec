import { expect, it } from 'vitest';
import { measureKernels } from '../../native-bench/kernels.ts';
import { providers } from '../../src/kernels/providers.ts';

it('the benchmark of the kernels runs and measures every provider in use, both directions, on all data', async () => {
  const measured = await measureKernels(1);
  for (const { kernel, provider } of providers()) {
    const mine = measured.filter((one) => one.kernel === kernel && one.provider === provider);
    const directions = new Set(mine.map(({ direction }) => direction));
    expect(directions.size).toBe(kernel === 'blake3' ? 1 : 2);
    expect(mine).toHaveLength(directions.size * 3 * 2);
    for (const { mbPerSecond } of mine) expect(mbPerSecond).toBeGreaterThan(0);
  }
});
