/** A test failover whose machine is started, and the record that says so: the point is bootable, at that time, after so many seconds. */
import * as path from 'node:path';
import type { FailoverRoles } from '../cli/failover-roles.ts';
import { Problem } from '../kit/problem.ts';
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
  const interrupted = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
  await proveBoot({
    machine: { title: `${machine}-${id}`, definition, disks, ...uefi },
    probe,
    answerSeconds: boot.answerSeconds,
    directory: path.join(place.path, 'boot'),
    beganMs,
    files,
    clock,
    signal,
    answered: async ({ answered, detail, seconds, accelerator, withoutKvm }, ended) => {
      const body = { point, atMs: clock.wallMs(), failover: id, seconds, probe: probe.kind, detail };
      await writeAside(parts, data, machine, { type: 'booted', body });
      proven({ ...report, boot: { answered, detail, seconds, accelerator, withoutKvm } });
      if (boot.keepRunning) await Promise.race([interrupted, ended]);
    },
  });
}
