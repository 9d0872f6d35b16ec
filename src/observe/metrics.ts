/** The process itself, whatever role it has: memory, CPU, how late its event loop is, how long its certificate is good. Sampled at each scrape. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { MetricRegistry, Sample } from './registry.ts';

const declare = <const T extends 'counter' | 'gauge'>(name: string, type: T, help: string) =>
  ({ name, type, help, labels: [] }) as const;

const processSeries = {
  residentBytes: declare('tidemark_process_resident_memory_bytes', 'gauge', 'Memory of the process that is in RAM.'),
  heapBytes: declare('tidemark_process_heap_used_bytes', 'gauge', 'JavaScript heap in use.'),
  externalBytes: declare('tidemark_process_external_memory_bytes', 'gauge', 'Buffers outside the JavaScript heap.'),
  userSeconds: declare('tidemark_process_cpu_user_seconds_total', 'counter', 'CPU time in user mode, all threads.'),
  systemSeconds: declare(
    'tidemark_process_cpu_system_seconds_total',
    'counter',
    'CPU time in the kernel, all threads.',
  ),
  startTimestamp: declare('tidemark_process_start_timestamp_seconds', 'gauge', 'When the process started (Unix time).'),
  loopLagSeconds: declare(
    'tidemark_process_event_loop_lag_p99_seconds',
    'gauge',
    'How late the event loop was, p99 since the last scrape.',
  ),
} as const;

const certificateExpires = {
  name: 'tidemark_certificate_expires_timestamp_seconds',
  type: 'gauge',
  help: 'When the certificate ends that this role shows to others, or the authority that issues them (Unix time).',
  labels: ['role'],
} as const;

const loopResolutionMs = 10;
const nsPerSecond = 1e9;
const usPerSecond = 1e6;
const msPerSecond = 1000;

/** Registers the series above; once per registry. @returns how to end the event loop's measurement. */
export function registerProcessSeries(registry: MetricRegistry, startedMs: number): { close(): void } {
  const delay = monitorEventLoopDelay({ resolution: loopResolutionMs });
  delay.enable();
  const one = (value: number | undefined): Sample<never>[] => [{ labels: {}, value }];
  registry.sampled(processSeries.residentBytes, () => one(process.memoryUsage.rss()));
  registry.sampled(processSeries.heapBytes, () => one(process.memoryUsage().heapUsed));
  registry.sampled(processSeries.externalBytes, () => one(process.memoryUsage().external));
  registry.sampled(processSeries.userSeconds, () => one(process.cpuUsage().user / usPerSecond));
  registry.sampled(processSeries.systemSeconds, () => one(process.cpuUsage().system / usPerSecond));
  registry.sampled(processSeries.startTimestamp, () => one(startedMs / msPerSecond));
  registry.sampled(processSeries.loopLagSeconds, () => {
    // The histogram counts the timer's own interval; what is above it is lag. No value yet: not known.
    const lagNs = delay.count > 0 ? Math.max(0, delay.percentile(99) - loopResolutionMs * 1e6) : undefined;
    delay.reset();
    return one(lagNs === undefined ? undefined : lagNs / nsPerSecond);
  });
  return { close: () => delay.disable() };
}

/** @param role whose certificate it is; `authority`: the one that issues those of the site. */
export function registerCertificateSeries(
  registry: MetricRegistry,
  role: 'agent' | 'process-server' | 'target' | 'authority',
  notAfterMs: number,
): void {
  registry.sampled(certificateExpires, () => [{ labels: { role }, value: notAfterMs / msPerSecond }]);
}
