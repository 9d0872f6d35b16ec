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
  /** Age of the newest point, in intervals above the grace, from which health is not `ok` though the RPO target holds. */
  rpoWarningIntervals: 3,
  rpoGraceMs: 30_000,
  /** The RPO target where none was set, in intervals, and at least so many seconds; one of fewer intervals than the last is warned of. */
  rpoDefaultIntervals: 12,
  rpoDefaultSecondsMin: 60,
  rpoTightIntervals: 2,
  rpoTargetSecondsMax: 30 * 24 * 3600,
  /** A breach is warned of when it was foreseen for so long, within so many seconds, and until none was foreseen for so long. */
  forecastRaiseMs: 30_000,
  forecastClearMs: 120_000,
  forecastHorizonSeconds: 3600,
  /** What a cycle or a wait has to take of the interval or the window for a stage to bind. */
  bindingShare: 0.25,
  /** A transfer that takes more of the RPO target than this is warned of when a policy is set. */
  preflightShare: 0.5,
  /** Free space of a target: how often a sample is kept, for how long, and from how much time on its growth is known. */
  growthSampleMs: 600_000,
  growthSpanMs: 6 * 3600 * 1000,
  growthNeedsMs: 1800 * 1000,
  /** A target that is full within this is warned of. */
  fullForecastMs: 24 * 3600 * 1000,
  /** Proofs run in the background, so they may lag this much behind commits. */
  proofGraceMs: 300_000,
} as const;
