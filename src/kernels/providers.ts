/** Which implementation each kernel uses in this process, for the log line at start and the fallback metric. The order of preference is measured: `choose.ts`. */
import { blake3Choice } from './blake3.ts';
import { lz4Choice } from './lz4.ts';
import { zstdChoice } from './zstd.ts';

export interface ProviderReport {
  readonly kernel: 'blake3' | 'lz4' | 'zstd' | 'aes-256-gcm';
  readonly provider: string;
  /** True: a slower one than preferred. Worth a warning and the metric `tidemark_kernel_fallback`. */
  readonly fallback: boolean;
  readonly reason: string;
}

export function providers(): readonly ProviderReport[] {
  const chosen = [
    { kernel: 'blake3', choice: blake3Choice },
    { kernel: 'lz4', choice: lz4Choice },
    { kernel: 'zstd', choice: zstdChoice },
  ] as const;
  return [
    ...chosen.map(({ kernel, choice: { provider, fallback, reason } }) => ({ kernel, provider, fallback, reason })),
    { kernel: 'aes-256-gcm', provider: 'node:crypto', fallback: false, reason: 'part of the runtime' },
  ];
}
