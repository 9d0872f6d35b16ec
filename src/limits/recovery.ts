/** Bounds of the recovery (`limits.ts`). */
import { GiB, KiB, MiB } from '../kit/sizes.ts';

export const recovery = {
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
} as const;
