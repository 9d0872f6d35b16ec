/**
 * Every bound of the product, with its unit in its name (contract C5). Relations between them are asserted below, when the
 * program starts. A leaf file: it imports only `kit`, and any room but `kit` may import it.
 */
import { invariant } from './kit/invariant.ts';
import { GiB, KiB, MiB } from './kit/sizes.ts';
import { agent } from './limits/agent.ts';
import { control } from './limits/control.ts';
import { processServer } from './limits/process-server.ts';
import { recovery } from './limits/recovery.ts';
import { leases, state } from './limits/state.ts';
import { store } from './limits/store.ts';
import { target } from './limits/target.ts';

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
    /** POINTs of one session that wait for their answers. */
    pointsInFlightMax: 1024,
    firstFrameMs: 5_000,
    authenticationMs: 10_000,
    pingEveryMs: 2_000,
    /** A peer that is silent so long is gone: a machine whose process server died is with another one 15 s later. */
    idleMs: 10_000,
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
  processServer,
  target,
  store,
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
  recovery,
  agent,
  /** Of `admin.sock`; `silentMs`: how long a directory may be locked by somebody who does not answer there. */
  admin: { bodyBytesMax: 64 * KiB, requestMs: 30_000, connectionsMax: 16, silentMs: 10_000, pollMs: 50 },
  control,
  state,
  leases,
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
    /** How often a status that is watched is asked for. */
    watchSecondsDefault: 2,
    watchSecondsMax: 3600,
  },
} as const;

const { disk, machine, wire, nbd } = limits;
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
invariant(
  state.connectMs + state.statementMs < control.requestMs,
  'control answers that its state is away before its caller gives up',
);
invariant(
  leases.renewEveryMs + leases.askMs + leases.stopEarlyMs < leases.leaseMs,
  'a lease is asked for again while another question can still be answered',
);
