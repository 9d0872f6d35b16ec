/** Composition of the process that serves one failover: the point's disks, an overlay over each, one NBD server for all. */
import { availableParallelism } from 'node:os';
import * as path from 'node:path';
import type { Roles, Running } from '../cli/roles.ts';
import type { Clock } from '../kit/clock.ts';
import { invariant } from '../kit/invariant.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Backend } from '../nbd/backend.ts';
import { type NbdListen, serveNbd } from '../nbd/server.ts';
import type { NbdLogger } from '../nbd/session.ts';
import type { Logger } from '../observe/logger.ts';
import type { Files } from '../posix/files.ts';
import { readExportTls } from '../recovery/export-tls.ts';
import { type Failover, FailoverDirectory } from '../recovery/failover-directory.ts';
import { Overlay } from '../recovery/overlay.ts';
import { OverlaySpace } from '../recovery/overlay-space.ts';
import { tellTroubles } from '../recovery/overlay-trouble.ts';
import { PointBackend } from '../recovery/point-backend.ts';
import { ReadPool } from '../recovery/read-pool.ts';
import { lockIdentity, partsOfRole, RoleBuilder, type Parts } from './parts.ts';
import { openServedImages, openVault } from './point-access.ts';

export function serveFailover(common: Parts, request: Parameters<Roles['serveFailover']>[0]): Promise<Running> {
  const { machine, data, id } = request;
  const logger = common.loggerOf({ logLevel: 'info' }, 'failover');
  const parts = partsOfRole(common, logger);
  const { files, clock } = parts;
  return RoleBuilder.build(async (builder) => {
    const { closers } = builder;
    const place = new FailoverDirectory(files, data, machine, id);
    const overlays = new Map<number, Overlay>();
    const identity = lockIdentity(clock, `failover ${id} of ${machine}`);
    const lock = await place.lock(clock, identity, () => tellTroubles(overlays));
    closers.add(() => lock.release());
    const failover = await place.read();
    if (!failover || failover.state === 'ending')
      throw new Problem('not-found', `failover ${id} of ${machine} is over`);
    const vault = await openVault(parts, request);
    const pool = new ReadPool({ threads: availableParallelism() });
    closers.add(() => pool.close());
    const space = new OverlaySpace(failover.spaceBytes);
    const exports = new Map<string, Backend>();
    const served = { ...request, point: failover.point, disks: failover.disks.map(({ name }) => name) };
    const images = await openServedImages(parts, closers, served, vault, pool);
    for (const [index, { no, name }] of failover.disks.entries()) {
      const image = images[index];
      invariant(image, 'an image for each disk');
      const base = new PointBackend(image);
      const overlay = await Overlay.open({
        files,
        paths: place.overlay(no),
        point: failover.point,
        base,
        space,
        failed: (problem) => {
          logger.error({ machine, disk: name, error: problem }, 'a disk of this failover can only be read from now on');
        },
        full: seldom(clock, (problem: Problem) => {
          logger.error({ machine, disk: name, error: problem }, 'there is no room for what is written to this disk');
        }),
      });
      closers.add(() => overlay.close());
      overlays.set(no, overlay);
      exports.set(name, overlay);
    }
    const listen = await listenOf(files, place, failover);
    const server = await serveNbd({ exports, listen, clock, files, logger: refusals(logger, clock) });
    closers.add(() => server.close());
    const disks = failover.disks.map(({ name }) => ({ name, uri: server.uri(name) }));
    await place.writeProcess({ pid: process.pid, startedMs: clock.wallMs(), disks });
    closers.add(() => place.removeProcess());
    for (const { name, uri } of disks) builder.reachable(`disk ${name} of ${machine} in ${id}`, uri);
    logger.info({ machine, failover: id, point: failover.point }, 'serving');
  });
}

async function listenOf(files: Files, place: FailoverDirectory, { listen }: Failover): Promise<NbdListen> {
  if ('tls' in listen) return { ...listen.tls, tls: await readExportTls(files, place.tls) };
  if (!('socket' in listen)) return listen;
  await files.makeDirectory(path.dirname(listen.socket));
  return { unixPath: listen.socket };
}

/** What is worth a line of the log. */
function refusals(logger: Logger, clock: Clock): NbdLogger {
  return {
    info: () => undefined,
    warn: seldom(clock, (fields: object, message: string) => {
      logger.warn({ ...fields }, message);
    }),
  };
}

/** Strangers may ask, and machines write, as often as they like: they get one line in a while. */
function seldom<T extends readonly unknown[]>(clock: Clock, say: (...what: T) => void): (...what: T) => void {
  let quietUntilMs = 0;
  return (...what) => {
    const nowMs = clock.monotonicMs();
    if (nowMs < quietUntilMs) return;
    quietUntilMs = nowMs + limits.nbd.handshakeMs;
    say(...what);
  };
}
