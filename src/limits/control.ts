/** Bounds of the control API (`limits.ts`). */
import { KiB, MiB } from '../kit/sizes.ts';

export const control = {
  bodyBytesMax: 256 * KiB,
  responseBytesMax: 16 * MiB,
  requestMs: 10_000,
  keepAliveMs: 60_000,
  connectionsMax: 1024,
  registrationKeyTtlSecondsMax: 5 * 24 * 3600,
  registrationKeyTtlSecondsDefault: 24 * 3600,
  certificateDays: 365,
  /** Timers hold at most 2³¹ − 1 ms, 24.8 days. */
  serverCertificateRenewMs: 20 * 24 * 3600 * 1000,
  pageItemsDefault: 100,
  pageItemsMax: 1000,
  /** How often an agent asks for its policy, and every role reports. */
  policyPollMs: 5_000,
  reportEveryMs: 5_000,
  /** Points of a machine kept for listing; the target keeps the truth. */
  pointsPerMachineMax: 10_000,
  pointsPerReportMax: 512,
  sessionsPerReportMax: 512,
  gapReasonsMax: 16,
  idempotencyEntriesMax: 1024,
  idempotencySeconds: 3600,
  /** A role whose last report is older is said to be silent. */
  reportSilentMs: 60_000,
  reportersMax: 4096,
  /** Age of the newest point, in intervals above the grace, from which health is not `ok`. */
  rpoWarningIntervals: 3,
  rpoCriticalIntervals: 12,
  rpoGraceMs: 30_000,
  /** Proofs run in the background, so they may lag this much behind commits. */
  proofGraceMs: 300_000,
} as const;
