/** The disks of an agent: what captures them, what is remembered of their replica, and where their writers find them. */
import { readDiskState } from '../agent/disk-state.ts';
import type { MemoryPlan } from '../agent/memory-plan.ts';
import { ReplicaDisk } from '../agent/replica-disk.ts';
import { openNbdCapture } from '../capture/nbd-open.ts';
import type { NbdCapture } from '../capture/nbd-splitter.ts';
import { openScanCapture, type ScanCapture } from '../capture/scan.ts';
import type { AgentConfig, DiskConfig } from '../config.ts';
import type { Logger } from '../observe/logger.ts';
import { serveNbd } from '../nbd/server.ts';
import { acquireLock } from '../posix/lock.ts';
import { lockIdentity, type Parts, type RoleBuilder } from './parts.ts';

export interface AgentDisks {
  readonly parts: Parts;
  readonly config: AgentConfig;
  /** Of a disk that is new. */
  readonly newBlockSize: number;
  readonly memory: MemoryPlan;
  readonly builder: RoleBuilder;
  readonly logger: Logger;
}

/** Opens a disk and, where its capture needs that, serves it; the role that is built closes both. */
export async function openDisk(of: AgentDisks, disk: DiskConfig): Promise<ReplicaDisk> {
  const { files } = of.parts;
  const { data, blockSize } = of.config;
  const state = await readDiskState(files, data, disk.name);
  // What the change log was made with goes on; a policy is for new disks only.
  const bytes = blockSize ?? state?.blockSize ?? of.newBlockSize;
  const splitter = disk.capture === 'nbd' ? await openSplitter(of, disk, bytes, state !== null) : null;
  const capture = splitter ?? (await openScan(of, disk, bytes));
  let replica: ReplicaDisk;
  try {
    replica = await ReplicaDisk.open({ capture, files, directory: data, state });
  } catch (error) {
    await capture.close();
    throw error;
  }
  of.builder.closers.add(async () => {
    await replica.close();
    const reason = capture.logFailure;
    if (reason !== null) of.logger.warn({ disk: disk.name, reason }, 'the change log was not closed in order');
  });
  if (splitter) await serve(of, disk, splitter);
  const reason = capture.logLoss ?? (replica.resyncReason === 'leaves-lost' ? 'leaves-lost' : null);
  if (reason !== null)
    of.logger.warn({ disk: disk.name, reason }, 'every block of this disk is compared with its replica');
  return replica;
}

function openScan({ parts }: AgentDisks, { image, name, frozen }: DiskConfig, blockSize: number): Promise<ScanCapture> {
  return openScanCapture({ files: parts.files, image, name, blockSize, frozen });
}

function openSplitter(
  { parts, config, memory }: AgentDisks,
  { image, name }: DiskConfig,
  blockSize: number,
  hadLog: boolean,
): Promise<NbdCapture> {
  const { files, clock, random } = parts;
  const owner = `${config.machine}/${name}`;
  return openNbdCapture({
    files,
    clock,
    random,
    image,
    name,
    owner,
    blockSize,
    stateDirectory: config.data,
    hadLog,
    copyBeforeWriteMemoryBytes: memory.copyBeforeWriteBytes,
    lock: (at) => acquireLock(files, clock, at, lockIdentity(clock, `agent of ${owner}`)),
  });
}

async function serve(
  { parts, memory, builder, logger }: AgentDisks,
  disk: DiskConfig,
  backend: NbdCapture,
): Promise<void> {
  const server = await serveNbd({
    exports: new Map([[disk.name, backend]]),
    listen: disk.socket === undefined ? { host: '127.0.0.1', port: disk.port ?? 0 } : { unixPath: disk.socket },
    clock: parts.clock,
    files: parts.files,
    logger,
    inFlightBytesMax: memory.nbdInFlightBytes,
    poolBytesMax: memory.nbdPoolBytes,
  });
  builder.closers.add(() => server.close());
  builder.reachable(`disk ${disk.name}`, server.uri(disk.name));
}
