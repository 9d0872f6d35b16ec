/** `tidemark release`: a machine that a lease held may be had by a process server without one (`store/epochs.ts`). */
import type { ReleaseReport, Vault } from '../cli/roles.ts';
import { nearest } from '../kit/nearest.ts';
import { Problem } from '../kit/problem.ts';
import { releaseOf } from '../store/epochs.ts';
import { listMachines, machinePaths, readMachineFacts } from '../store/machine-directory.ts';
import { readPoints } from '../store/points-log.ts';
import { writeAside } from './data-writer.ts';
import type { Parts } from './parts.ts';
import { storeFacts } from './point-access.ts';

/** @throws Problem `not-found`, `locked`, `bad-record` (another process server came meanwhile), `full`, `unreachable`. */
export async function releaseMachine(
  parts: Parts,
  { data, machine }: Vault & { readonly machine: string },
): Promise<ReleaseReport> {
  const { files, clock } = parts;
  await storeFacts(parts, data);
  const facts = await readMachineFacts(files, data, machine);
  if (!facts) {
    const near = nearest(machine, await listMachines(files, data));
    throw new Problem('not-found', `${data} holds no machine ${machine}`, {
      remedy: near === '' ? 'see what it holds with `tidemark points`' : `did you mean ${near}?`,
    });
  }
  const path = machinePaths(data, machine).pointsLog;
  const { view } = await readPoints({ files, path, machineId: Buffer.from(facts.id, 'hex') });
  const now = view.epoch;
  if (now?.lease !== true) return { machine, from: null };
  await writeAside(parts, data, machine, releaseOf(now, clock.wallMs()));
  return { machine, from: { server: now.server ?? null, epoch: now.epoch, sinceMs: now.atMs } };
}
