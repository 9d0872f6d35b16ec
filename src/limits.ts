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
  /** Of the definition of a machine. */
  machine: {
    cpusMax: 512,
    memoryBytesMin: 16 * MiB,
    memoryBytesMax: 16 * 1024 * GiB,
    nicsMax: 16,
  },
  wire: {
    frameBytesMax: 4 * MiB,
    /** Memory of received frames that each role keeps for the next ones. */
    idleSlabBytesMax: 40 * MiB,
    fragmentsMax: 64,
    controlBytesMax: 256 * KiB,
    batchPayloadBytesMax: 1 * MiB,
    batchRecordsMax: 4096,
    leavesPerFrameMax: 16_384,
    repairsPerFrameMax: 65_536,
    /** Checksums in one CHECKSUMS: the leaves of 32 nodes, 1 MiB. */
    checksumsPerFrameMax: 32_768,
    /** CHECKSUMS of one session sent by the agent and not answered by DIFFERENT. */
    comparisonsMax: 4,
    /** Layers of one disk sent in one session and not durable yet. How many wait for a point has no bound: they are one value of fixed size. */
    layersInFlightMax: 64,
    firstFrameMs: 5_000,
    authenticationMs: 10_000,
    pingEveryMs: 5_000,
    idleMs: 20_000,
    /** AES-GCM is specified for about 362 GiB per key and direction. */
    connectionBytesMax: 256 * GiB,
    connectionsMax: 4096,
    /** Above this rate of refusals new connections are dropped before TLS, so that those at work keep the processor. */
    refusedPerSecondMax: 1000,
    /** Connections accepted and not yet upgraded. */
    handshakesMax: 512,
    /** A further connection of the same agent supersedes its oldest one. */
    connectionsPerAgentMax: 8,
    httpHeaderBytesMax: 8 * KiB,
    /** Server: from accept to the end of the TLS handshake, and from there to the upgrade. */
    handshakeMs: 10_000,
    upgradeMs: 5_000,
    /** Client: name look-up, TCP, TLS and upgrade together. */
    connectMs: 15_000,
    /** How long a refused peer gets to read why. */
    refusalLingerMs: 1_000,
    /** How long a close waits for the peer's close frame before the socket is destroyed. */
    closeMs: 2_000,
    keepAliveMs: 10_000,
  },
  processServer: {
    /** Plain bytes granted to one agent and not yet durable at the target. */
    sessionWindowBytes: 16 * MiB,
    /** A session always gets this much, so that one batch of the largest size can travel. */
    sessionWindowBytesMin: 2 * MiB,
    /** Everything in flight in the process, all sessions together. */
    inFlightBytesMax: 512 * MiB,
    poolQueueTasksMax: 256,
    /** Batches of one session with the pool at a time, so that none crowds out the others. */
    sessionTasksMax: 8,
    /** Control frames of one session waiting for the target; above it nothing more is read from the agent. */
    controlQueueBytesMax: 1 * MiB,
    /** Frames waiting for one agent; above it nothing more is read from the target. */
    returnQueueBytesMax: 8 * MiB,
    /** Machines whose counters are kept after their session ended. */
    machinesRememberedMax: 4096,
    /** Checksums asked of targets or being compared, both sides' together, all sessions; further questions wait their turn. */
    comparisonBytesMax: 128 * MiB,
  },
  target: {
    /** Sealed bytes of one session received and not yet durable. */
    sessionWindowBytes: 32 * MiB,
    segmentBytesMax: 256 * MiB,
    /** Control frames of one session waiting for their turn; above it nothing more is read. What one frame costs beside its bytes. */
    controlQueueBytesMax: 1 * MiB,
    queuedFrameBytes: 512,
    /** Below this much free space new batches wait; above `freeBytesResume` they go on. */
    freeBytesStop: 64 * MiB,
    freeBytesResume: 96 * MiB,
    /** Entries of one machine written and synced together at most. */
    groupBytesMax: 8 * MiB,
    /** The proof lets ingest go first after so many bytes. */
    proofSliceBytes: 256 * KiB,
    /** A proof that could not read is tried again after this, or when the next point comes. */
    proofRetryMs: 30_000,
    /** Tries after which a block that the medium does not give back is damaged. */
    unreadableTriesMax: 5,
    /** Such blocks counted at a time. */
    unreadableBlocksMax: 4_096,
    /** Of one core, for checking what is stored, all machines together. */
    scrubCpuShare: 0.05,
    /** The shortest pause worth a timer, and how long a step waits for ingest and proof at most. */
    scrubPauseMs: 20,
    scrubYieldMs: 1_000,
    /** From the begin of one pass over everything to the next one's, and from the start to the first step. */
    scrubEveryMs: 24 * 3600 * 1000,
    scrubFirstMs: 60_000,
    /** A pass that could not go on is tried again after this. */
    scrubRetryMs: 30_000,
    scrubSaveMs: 30_000,
    scrubRangesMax: 1_000,
    /** Between two looks whether a fold is due; between two folds while points come, while none come, and while the store is full; what it reads and writes. */
    foldPollMs: 5_000,
    failoversCountedMs: 5_000,
    foldEveryMs: 600_000,
    foldIdleMs: 3_600_000,
    foldFullMs: 30_000,
    foldBytesPerSecond: 64 * MiB,
    /** For each millisecond of a fold's step so many without one; the second while anything is received or proven. */
    foldRests: 1,
    foldRestsBusy: 4,
    /** Gaps of one machine are noted so often, merged by reason, and with each point. */
    gapsEveryMs: 60_000,
  },
  store: {
    /** Uncommitted leaves of one disk kept in memory; what is beyond goes to the overlay file beside the leaf file. */
    leafOverlayMemoryBytes: 8 * MiB,
    /** Records applied to an index and not yet in a transaction of its own; `room` waits above. */
    indexBacklogRecordsMax: 65_536,
    /** Address space reserved per index, not memory. */
    indexMapBytes: 64 * GiB,
    /** Times an index is opened without a clean close in between before it is taken for damaged and rebuilt. */
    indexStartsMax: 8,
    /** Records under one Merkle node whose history is told to an index begun anew, about 200 bytes each. */
    nodeRecordsMax: 1_000_000,
    indexStepEntries: 1024,
    segmentsOpenMax: 64,
    layerKeysMax: 1024,
    readerBuffersMax: 16,
    /** Free space is looked at after so many bytes written, and so often while there is too little. */
    freeCheckBytes: 4 * MiB,
    freeCheckMs: 1_000,
    replayReadBytes: 1 * MiB,
    pointsRecordBytesMax: 16 * MiB,
    damagedBlocksMax: 1_000,
    /** Records a fold looks at, and what compaction gathers into one MOVED, before ingest goes first. */
    foldStepRecords: 1_024,
    movedBytes: 1 * MiB,
    /** How long the file of a removed segment stays after `points.log` says so: who looked a record up before may still be about to read it. */
    removeAfterMs: 10_000,
    /** Dead bytes in hundredths of the live ones that compaction leaves where they are, all segments together. */
    deadPercentMax: 20,
    /** Runs of points one RETIRED record names at most; more follow in the next. */
    retiredRunsMax: 10_000,
  },
  posix: {
    /** How long the holder of a lock has to say who it is, and how much it may say. */
    lockAnswerMs: 1_000,
    lockAnswerBytesMax: 4 * KiB,
    /** What is kept of what a program said last. */
    programSaidCharsMax: 300,
    /** Between SIGTERM and SIGKILL of a program that ran beside us, and how long its end after SIGKILL is waited for. */
    programGraceMs: 1_000,
  },
  capture: {
    /** Extents looked up per block status request. */
    extentsPerCallMax: 256,
    regionBytes: 4 * MiB,
    hotRegionsMax: 512,
    /** Cold regions whose chunks are rewritten behind one activity write. */
    rewriteRegionsMax: 4096,
    /** How long a cut waits for the writes in flight before it is given up. */
    cutDrainMs: 2_000,
    /** How long a cut waits, holding nobody, for an instant at which no write waits for the change log. */
    cutCalmMs: 250,
    /** Pauses between tries for a new change log after one failed. */
    logRetryBaseMs: 1_000,
    logRetryMaxMs: 60_000,
    copyBeforeWriteMemoryBytes: 64 * MiB,
    copyBeforeWriteScratchBytes: 1 * GiB,
  },
  nbd: {
    requestBytesMax: 32 * MiB,
    inFlightBytesMax: 64 * MiB,
    inFlightRequestsMax: 128,
    optionBytesMax: 64 * KiB,
    /** Options one client may send before transmission; bounds what the replies to them can pile up. */
    optionsMax: 128,
    handshakeMs: 10_000,
    connectionsMax: 256,
    /** Free request buffers kept for the next request, all connections of a server together. */
    poolBytesMax: 32 * MiB,
    extentsPerReplyMax: 4096,
    /** Bodies of replies (other than data) that the client accepts. */
    replyBodyBytesMax: 1 * MiB,
    /** How long a server that closes waits for requests in flight and for clients to take their replies. */
    closeMs: 5_000,
  },
  recovery: {
    boot: {
      /** How long a firmware under KVM has to say its first word. */
      kvmAnswerMs: 3_000,
      /** QEMU's greeting, and any answer of its monitor. */
      monitorAnswerMs: 10_000,
      lineBytesMax: 256 * KiB,
      /** From its start to the probe's answer. */
      answerSecondsDefault: 300,
      answerSecondsMax: 3_600,
      /** Between two questions to a machine that did not answer, and two looks. */
      askAgainMs: 2_000,
      pollMs: 100,
      consoleCharsMax: 1 * MiB,
      probeTextMax: 256,
      /** Of the console, in the message that says it did not start. */
      lastLines: 8,
      lineCharsShown: 200,
    },
    /** Rebuilt blocks an NBD export keeps. */
    exportCacheBytes: 32 * MiB,
    /** Nodes of 1,024 leaves whose checked leaves an image keeps, 32 KiB each. */
    nodesKeptMax: 512,
    /** What a worker thread reads and rebuilds as one task, at least one block. */
    runBytes: 1 * MiB,
    /** A run this small is read on the calling thread: handing it over costs more than it saves (4 KiB reads here and there). */
    runHereBytesMax: 128 * KiB,
    /** Runs handed to the threads of one pool and not done, in bytes; further ones wait in order. */
    runsInFlightBytes: 16 * MiB,
    /** Runs read ahead of who takes all blocks of a point in order. */
    runsAheadMax: 8,
    /** Sequential readers an NBD export tells apart, and how far it reads ahead of each. */
    streamsMax: 8,
    readAheadBytesMax: 4 * MiB,
    readThreadIdleMs: 10_000,
    segmentsOpenMax: 64,
    /** Images (a disk at a point) whose layer keys one thread keeps. */
    imagesKeptMax: 16,
    /** What the overlays of a test may take together unless told otherwise. */
    overlayBytesMax: 64 * GiB,
    /** How long a failover may take until it is served, its process to end (then it is killed), and others who work on the machine's failovers. */
    failoverStartMs: 60_000,
    failoverStopMs: 10_000,
    failoverTurnMs: 90_000,
    failoverPollMs: 20,
    /** How often one looks whether a failover is still served, still there; when it is tried again; how long a machine waits for its disks. */
    failoverLookMs: 2_000,
    failoverRetryMs: 60_000,
    failoverReconnectSeconds: 60,
    /** What is shown of the log of a process that did not come up. */
    failoverLogBytes: 2 * KiB,
    /** Changed leaves, and hashes of nodes, that a verification of roots keeps, about 200 bytes each. */
    verifyChangesMax: 1_000_000,
    /** Damaged versions of blocks that a verification can name, and blocks it names of one point. */
    damagedVersionsMax: 10_000,
    damagedNamedMax: 100,
    /** What an export into something that is not empty clears between two looks at whether it is to end. */
    clearBytes: 256 * MiB,
    /** A conversion by another program, and how long it has to end when it is told to. */
    convertMs: 14 * 24 * 3600 * 1000,
    convertGraceMs: 2_000,
  },
  agent: {
    /** Payload of one batch: half of what the protocol allows keeps every message below the size at which memory is mapped afresh. */
    batchPayloadBytes: 512 * KiB,
    /** A round smaller than this is made the last one, under a cut. */
    lastRoundBytes: 32 * MiB,
    roundsMax: 16,
    reconnectBaseMs: 200,
    reconnectMaxMs: 10_000,
    /** After a refusal that trying again does not mend. */
    criticalRetryMs: 300_000,
    /** How often replication that an operator paused looks whether it may go on. */
    holdPollMs: 1000,
    /** What the survey reads in one piece, and what it or an initial replication makes durable at a time. */
    surveyPieceBytes: 32 * MiB,
    checkpointBytes: 4 * GiB,
    checkpointMs: 5_000,
    /** Threads that hash a disk: more than these outrun most disks. */
    hashThreadsMax: 4,
    /** After the last piece the survey's threads end. */
    hashThreadIdleMs: 10_000,
    /** A resync that waits for its window looks at least so often whether that was changed. */
    resyncWindowPollMs: 30_000,
    /** Between two looks whether a disk has its change log; below `capture.logRetryBaseMs` / 2, so that no failure passes unseen. */
    logWatchMs: 250,
    /** Gaps kept until they are told; more are merged. */
    gapsKeptMax: 64,
    appRetryMs: 60_000,
    /** Between SIGTERM and SIGKILL of a hook that is not let end by itself. */
    hookGraceMs: 2_000,
    guestAgentLineBytesMax: 64 * KiB,
    /** Pauses between tries to thaw, or to run the post hook. */
    settleBaseMs: 1_000,
    settleMaxMs: 30_000,
    /** How long an agent that stops tries to thaw. */
    settleOnStopMs: 4_000,
    /** Under a ceiling of processor time: how much background work goes on between two looks at what was used. */
    paceEveryBytes: 256 * KiB,
    /** What can be saved up or owed of it, and so the longest pause. */
    paceBurstMs: 500,
    /** Under a ceiling of memory, as measured: the runtime with its code and what waits for its garbage collector, batches and read-ahead. */
    memoryRuntimeBytes: 192 * MiB,
    memoryPerHashThreadBytes: 32 * MiB,
    /** Change log and leaf nodes of 1 TiB, half of it dirty. */
    memoryPerDiskBytes: 24 * MiB,
    copyBeforeWriteMemoryBytesMin: 4 * MiB,
  },
  /** Of `admin.sock`; `silentMs`: how long a directory may be locked by somebody who does not answer there. */
  admin: { bodyBytesMax: 64 * KiB, requestMs: 30_000, connectionsMax: 16, silentMs: 10_000, pollMs: 50 },
  control: {
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
  },
  observe: {
    /** The asked-for port and the next ones, when it is taken. */
    portsTried: 17,
    requestMs: 10_000,
    connectionsMax: 64,
    /** Between two log lines about file operations of one kind that failed in the same way. */
    storageFaultEveryMs: 10_000,
    logLine: { depthMax: 6, itemsMax: 64, textMax: 8 * KiB },
  },
  cli: {
    /** How long a role may take to end after a signal. */
    closeMs: 10_000,
    /** A configuration file, or a file with a registration key. */
    textFileBytesMax: 1 * MiB,
  },
} as const;

const { disk, machine, wire, processServer, target, nbd } = limits;
const sealedBatchBytesMax = wire.batchPayloadBytesMax + wire.batchRecordsMax * 72 + 64;
invariant(disk.blockBytesMin / disk.pagesPerBlock >= 256, 'a page holds at least 256 bytes');
invariant(sealedBatchBytesMax + 8 <= wire.frameBytesMax, 'a sealed batch of the largest size fits into a frame');
invariant(disk.blockBytesMax <= wire.batchPayloadBytesMax, 'one block fits into a batch');
invariant(processServer.sessionWindowBytesMin >= sealedBatchBytesMax, 'the smallest window lets one batch travel');
invariant(
  target.sessionWindowBytes >= processServer.sessionWindowBytes,
  'the target takes what one agent may have in flight',
);
/** The definition of a machine as JSON at most: its disks' names, its network cards, a few words. */
const definitionBytesMax = disk.perMachineMax * 66 + machine.nicsMax * 160 + 256;
/** POINT as JSON at most: its evidence, in which every character may be escaped, its definition, and its disks with all figures at their largest. */
const pointBytesMax = 6 * 1024 + 256 + definitionBytesMax + disk.perMachineMax * 512;
invariant(pointBytesMax <= wire.controlBytesMax, 'a POINT of the most disks fits into a control frame');
invariant(
  limits.agent.roundsMax + 1 < wire.layersInFlightMax,
  'all layers of a cycle may be on their way before the first is durable',
);
invariant(wire.pingEveryMs * 3 < wire.idleMs, 'three pings fit into the idle deadline');
invariant(
  processServer.comparisonBytesMax >= 2 * wire.checksumsPerFrameMax * disk.leafBytes * wire.comparisonsMax,
  'what one session may ask for can be compared',
);
invariant(limits.store.movedBytes + disk.blockBytesMax + 4 * KiB <= wire.frameBytesMax, 'a MOVED fits into an entry');
invariant(target.groupBytesMax >= sealedBatchBytesMax, 'a batch of the largest size fits into one group commit');
invariant(target.freeBytesStop < target.freeBytesResume, 'stop and resume marks do not meet');
invariant(nbd.requestBytesMax <= nbd.inFlightBytesMax, 'one NBD request of the largest size may be in flight');
invariant(
  2 * limits.agent.hookGraceMs + limits.agent.settleOnStopMs < limits.cli.closeMs,
  'an agent that stops has time to end its hook and to thaw',
);
