/**
 * Every bound of the product, with its unit in its name (contract C5). Relations between them are asserted below, when the
 * program starts. A leaf file: it imports only `kit`, and any room but `kit` may import it.
 */
import { invariant } from './kit/invariant.ts';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

export const limits = {
  disk: {
    sectorBytes: 512,
    pagesPerBlock: 16,
    blockBytesMin: 4 * KiB,
    blockBytesMax: 1 * MiB,
    blockBytesDefault: 64 * KiB,
    /** Block numbers are 32 bit on the wire and in segments. */
    blockCountMax: 2 ** 32 - 1,
    perMachineMax: 64,
    leavesPerNode: 1024,
    leafBytes: 32,
  },
  wire: {
    frameBytesMax: 4 * MiB,
    fragmentsMax: 64,
    controlBytesMax: 256 * KiB,
    batchPayloadBytesMax: 1 * MiB,
    batchRecordsMax: 4096,
    leavesPerFrameMax: 16_384,
    repairsPerFrameMax: 65_536,
    layersPendingMax: 4096,
    firstFrameMs: 5_000,
    authenticationMs: 10_000,
    pingEveryMs: 5_000,
    idleMs: 20_000,
    /** AES-GCM is specified for about 362 GiB per key and direction. */
    connectionBytesMax: 256 * GiB,
    connectionsMax: 4096,
    refusedPerSecondMax: 1000,
  },
  processServer: {
    /** Plain bytes granted to one agent and not yet durable at the target. */
    sessionWindowBytes: 16 * MiB,
    /** A session always gets this much, so that one batch of the largest size can travel. */
    sessionWindowBytesMin: 2 * MiB,
    /** Everything in flight in the process, all sessions together. */
    inFlightBytesMax: 512 * MiB,
    poolQueueTasksMax: 256,
  },
  target: {
    /** Sealed bytes of one session received and not yet durable. */
    sessionWindowBytes: 32 * MiB,
    segmentBytesMax: 256 * MiB,
    /** Below this much free space new batches wait; above `freeBytesResume` they go on. */
    freeBytesStop: 64 * MiB,
    freeBytesResume: 96 * MiB,
  },
  capture: {
    regionBytes: 4 * MiB,
    hotRegionsMax: 512,
    /** How long a cut waits for the writes in flight before it is given up. */
    cutDrainMs: 2_000,
    copyBeforeWriteMemoryBytes: 64 * MiB,
    copyBeforeWriteScratchBytes: 1 * GiB,
  },
  nbd: {
    requestBytesMax: 32 * MiB,
    inFlightBytesMax: 64 * MiB,
    inFlightRequestsMax: 128,
    optionBytesMax: 64 * KiB,
    handshakeMs: 10_000,
  },
  agent: {
    /** A round smaller than this is made the last one, under a cut. */
    lastRoundBytes: 32 * MiB,
    /** Rounds before the cut is made anyway. */
    roundsMax: 16,
    reconnectBaseMs: 200,
    reconnectMaxMs: 10_000,
  },
  control: {
    bodyBytesMax: 256 * KiB,
    responseBytesMax: 4 * MiB,
    requestMs: 10_000,
    connectionsMax: 1024,
    registrationKeyTtlSecondsMax: 5 * 24 * 3600,
    registrationKeyTtlSecondsDefault: 24 * 3600,
    certificateDays: 365,
    pageItemsDefault: 100,
    pageItemsMax: 1000,
    /** Points of a machine kept for listing; the target keeps the truth. */
    pointsPerMachineMax: 10_000,
    pointsPerReportMax: 512,
    idempotencyEntriesMax: 1024,
    idempotencySeconds: 3600,
    /** A role whose last report is older is said to be silent. */
    reportSilentMs: 60_000,
    reportersMax: 4096,
  },
  observe: {
    /** The asked-for port and the next ones, when it is taken. */
    portsTried: 17,
    requestMs: 10_000,
    connectionsMax: 64,
    logLine: { depthMax: 6, itemsMax: 64, textMax: 8 * KiB },
  },
} as const;

const { disk, wire, processServer, target } = limits;
const sealedBatchBytesMax = wire.batchPayloadBytesMax + wire.batchRecordsMax * 72 + 64;
invariant(disk.blockBytesMin / disk.pagesPerBlock >= 256, 'a page holds at least 256 bytes');
invariant(sealedBatchBytesMax + 8 <= wire.frameBytesMax, 'a sealed batch of the largest size fits into a frame');
invariant(disk.blockBytesMax <= wire.batchPayloadBytesMax, 'one block fits into a batch');
invariant(processServer.sessionWindowBytesMin >= sealedBatchBytesMax, 'the smallest window lets one batch travel');
invariant(
  target.sessionWindowBytes >= processServer.sessionWindowBytes,
  'the target takes what one agent may have in flight',
);
invariant(wire.pingEveryMs * 3 < wire.idleMs, 'three pings fit into the idle deadline');
invariant(target.freeBytesStop < target.freeBytesResume, 'stop and resume marks do not meet');
