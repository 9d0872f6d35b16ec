/**
 * A test failover whose machine is started, and the record that says so: the point is bootable, at that time, after so many seconds. The machine ends
 * with its failover: who removes that need not know of us, since we look from time to time whether it is still there.
 */
import * as path from 'node:path';
import type { FailoverReport, FailoverRoles } from '../cli/failover-roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { proveBoot } from '../recovery/boot.ts';
import { FailoverDirectory } from '../recovery/failover-directory.ts';
import { parseProbe } from '../recovery/probe.ts';
import { prepareUefi } from '../recovery/uefi.ts';
import { writeAside } from './data-writer.ts';
import { testFailover } from './failover.ts';
import type { Parts } from './parts.ts';

type Boot = FailoverRoles['bootTestFailover'];

export async function bootTestFailover(
  parts: Parts,
  request: Parameters<Boot>[0],
  proven: Parameters<Boot>[1],
  signal: AbortSignal,
): Promise<void> {
  const { files, clock } = parts;
  const { data, machine, boot } = request;
  const beganMs = clock.monotonicMs();
  const probe = parseProbe(boot.probe);
  const report = await testFailover(parts, request);
  const { id, point } = report;
  const place = new FailoverDirectory(files, data, machine, id);
  const definition = (await place.read())?.definition;
  const disks = report.disks.flatMap(({ name, uri }) => (uri === null ? [] : { name, uri }));
  if (!definition) {
    throw new Problem('bad-argument', `nobody said what ${machine} is as of point ${point}: it can not be started`, {
      remedy: `its disks are there (tidemark failover list ${machine}); for later points: tidemark protect ${machine} --machine-xml FILE`,
    });
  }
  const uefi = definition.firmware === 'uefi' ? { uefi: await prepareUefi(files, place.path) } : {};
  const removed = new AbortController();
  const looking = clock.every(limits.recovery.failoverThereMs, () => {
    void isThere(place).then((there) => {
      if (!there) removed.abort(removedMeanwhile(report));
    });
  });
  const over = AbortSignal.any([signal, removed.signal]);
  const ending = new Promise<void>((resolve) => {
    if (over.aborted) resolve();
    else over.addEventListener('abort', () => resolve(), { once: true });
  });
  const proof = proveBoot({
    machine: { title: `${machine}-${id}`, definition, disks, ...uefi },
    probe,
    answerSeconds: boot.answerSeconds,
    directory: path.join(place.path, 'boot'),
    beganMs,
    files,
    clock,
    signal: over,
    answered: async ({ answered, detail, seconds, accelerator, withoutKvm }, ended) => {
      const body = { point, atMs: clock.wallMs(), failover: id, seconds, probe: probe.kind, detail };
      await writeAside(parts, data, machine, { type: 'booted', body });
      proven({ ...report, boot: { answered, detail, seconds, accelerator, withoutKvm } });
      if (boot.keepRunning) await Promise.race([ending, ended]);
    },
  });
  try {
    await proof;
  } catch (error) {
    // Evidence that found no place any more.
    throw isProblem(error) || (await isThere(place)) ? error : removedMeanwhile(report);
  } finally {
    looking.cancel();
  }
}

/** Where nobody can tell, it is. */
async function isThere(place: FailoverDirectory): Promise<boolean> {
  const state = await place.read().then(
    (failover) => failover?.state ?? 'ending',
    () => 'running',
  );
  return state !== 'ending';
}

function removedMeanwhile({ id, machine }: FailoverReport): Problem {
  return new Problem('interrupted', `failover ${id} of ${machine} was removed while its machine ran`, {
    remedy: 'the machine was ended; run it again',
  });
}
