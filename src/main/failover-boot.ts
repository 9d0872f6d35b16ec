/**
 * A test failover whose machine is started, and the record that says so: the point is bootable, at that time, after so many seconds. What keeps the
 * machine from being started is looked for before the test is made. The machine ends with its failover: who removes that need not tell us, since we
 * look from time to time whether it is still there, and sees when it has ended (`failover-booted.ts`).
 */
import type { FailoverReport, FailoverRoles } from '../cli/failover-roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { checkBootable, proveBoot } from '../recovery/boot.ts';
import { FailoverDirectory } from '../recovery/failover-directory.ts';
import { parseProbe } from '../recovery/probe.ts';
import { prepareUefi } from '../recovery/uefi.ts';
import type { MachineDefinition } from '../wire/definition.ts';
import { writeAside } from './data-writer.ts';
import { evidenceOf, lockMachine } from './failover-booted.ts';
import { choosePointFor } from './failover-point.ts';
import { asFull, pointsSaid, refuseUnknown } from './failover-turn.ts';
import { testFailover } from './failover.ts';
import type { Parts } from './parts.ts';

type Boot = FailoverRoles['bootTestFailover'];
type Request = Parameters<Boot>[0];

export async function bootTestFailover(
  parts: Parts,
  request: Request,
  told: Parameters<Boot>[1],
  signal: AbortSignal,
): Promise<void> {
  const beganMs = parts.clock.monotonicMs();
  const probe = parseProbe(request.boot.probe);
  const { point, definition } = await startable(parts, request);
  await checkBootable(parts.files, definition, probe);
  const report = await testFailover(parts, { ...request, point });
  const place = new FailoverDirectory(parts.files, request.data, request.machine, report.id);
  const outcome = { isProven: false };
  const proven: typeof told.proven = (booted) => {
    outcome.isProven = true;
    told.proven(booted);
  };
  try {
    const lock = await lockMachine(parts, evidenceOf(request, point, report.id), report.id);
    try {
      if (!(await isThere(place))) throw removedMeanwhile(report);
      await start(parts, { request, report, place, definition, probe, beganMs, proven, signal });
    } finally {
      await lock.release();
    }
  } catch (error) {
    const there = await isThere(place);
    if (there && !outcome.isProven) told.unproven(report);
    // Evidence that found no place any more.
    throw isProblem(error) || there ? asFull(request.data, error) : removedMeanwhile(report);
  }
}

/** Which point is meant, and what the machine is as of it. @throws Problem `not-found`, `damaged`, `bad-argument`. */
async function startable(
  parts: Parts,
  { data, machine, point: wanted }: Request,
): Promise<{ readonly point: number; readonly definition: MachineDefinition }> {
  await refuseUnknown(parts, data, machine);
  const { view } = await pointsSaid(parts, data, machine);
  const { point } = choosePointFor(machine, view, wanted);
  const definition = view.definitionAt(point);
  if (definition) return { point, definition };
  throw new Problem('bad-argument', `nobody said what ${machine} is as of point ${point}: it can not be started`, {
    remedy: `start it without --boot and give its disks to a machine of your own; for later points: tidemark protect ${machine} --machine-xml FILE`,
  });
}

interface Start {
  readonly request: Request;
  readonly report: FailoverReport;
  readonly place: FailoverDirectory;
  readonly definition: MachineDefinition;
  readonly probe: ReturnType<typeof parseProbe>;
  readonly beganMs: number;
  readonly proven: Parameters<Boot>[1]['proven'];
  readonly signal: AbortSignal;
}

async function start(parts: Parts, it: Start): Promise<void> {
  const { files, clock } = parts;
  const { report, place, definition, probe, beganMs } = it;
  const { data, machine, boot } = it.request;
  const { id, point } = report;
  const disks = report.disks.flatMap(({ name, uri }) => (uri === null ? [] : { name, uri }));
  const uefi = definition.firmware === 'uefi' ? { uefi: await prepareUefi(files, place.path) } : {};
  const removed = new AbortController();
  const looking = clock.every(limits.recovery.failoverLookMs, () => {
    void isThere(place).then((there) => {
      if (!there) removed.abort(removedMeanwhile(report));
    });
  });
  const over = AbortSignal.any([it.signal, removed.signal]);
  const ending = new Promise<void>((resolve) => {
    if (over.aborted) resolve();
    else over.addEventListener('abort', () => resolve(), { once: true });
  });
  try {
    await proveBoot({
      machine: { title: `${machine}-${id}`, definition, disks, ...uefi },
      probe,
      answerSeconds: boot.answerSeconds,
      directory: evidenceOf(it.request, point, id),
      beganMs,
      files,
      clock,
      signal: over,
      answered: async ({ answered, detail, seconds, accelerator, withoutKvm }, ended) => {
        const body = { point, atMs: clock.wallMs(), failover: id, seconds, probe: probe.kind, detail };
        await writeAside(parts, data, machine, { type: 'booted', body });
        it.proven({ ...report, boot: { answered, detail, seconds, accelerator, withoutKvm } });
        if (boot.keepRunning) await Promise.race([ending, ended]);
      },
    });
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
