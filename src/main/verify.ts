/** Composition of `verify`: which points of a target's directory are good. */
import type { Progress, VerifiedPoint, VerifyReport, VerifyRequest } from '../cli/roles.ts';
import type { Clock } from '../kit/clock.ts';
import { Problem } from '../kit/problem.ts';
import { PointImage } from '../recovery/point-image.ts';
import { verifyPoint } from '../recovery/verify.ts';
import { listMachines } from '../store/machine-directory.ts';
import type { MachineView } from '../store/machine-view.ts';
import type { PointBody } from '../store/points-record.ts';
import type { Vault } from '../store/vault.ts';
import type { Parts } from './parts.ts';
import { closing, openVault, openView, throughIndex } from './point-access.ts';

interface DiskToVerify {
  readonly disk: MachineView['facts']['disks'][number];
  readonly body: PointBody;
  /** Bytes. */
  readonly size: number;
}

function disksToVerify(view: MachineView, request: VerifyRequest): DiskToVerify[] {
  const bodies = request.point === 'all' ? view.points.points : [view.choosePoint(request.point)];
  const wanted = request.disk === undefined ? view.facts.disks : [view.disk(request.disk)];
  return bodies.flatMap((body) =>
    wanted.flatMap((disk) => body.disks.filter(({ no }) => no === disk.no).map(({ size }) => ({ disk, body, size }))),
  );
}

const bytesOf = (work: readonly DiskToVerify[]): number => work.reduce((sum, { size }) => sum + size, 0);

async function verifyDisks(
  view: MachineView,
  work: readonly DiskToVerify[],
  options: { vault: Vault; clock: Clock; signal: AbortSignal; progress: (doneBytes: number) => void },
): Promise<VerifiedPoint[]> {
  const points: VerifiedPoint[] = [];
  let before = 0;
  for (const { disk, body, size } of work) {
    const image = new PointImage(await view.diskAt(disk, body, options.vault), options.clock);
    const done = before;
    const progress = (bytes: number): void => {
      options.progress(done + bytes);
    };
    const result = await verifyPoint(image, { ...options, progress });
    before += size;
    points.push({ machine: view.machine, disk: disk.name, point: body.point, root: image.at.root, ...result });
  }
  return points;
}

export function verify(
  parts: Parts,
  request: VerifyRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const { files, clock } = parts;
  const { data } = request;
  return closing(async ({ closers }) => {
    const started = clock.monotonicMs();
    const vault = await openVault(parts, request);
    const machines = request.machine === undefined ? await listMachines(files, data) : [request.machine];
    const plan: { machine: string; work: DiskToVerify[] }[] = [];
    let ok = true;
    for (const machine of machines) {
      const view = await openView(parts, closers, { data, machine });
      if (view.pointsDamaged) ok = false;
      plan.push({ machine, work: disksToVerify(view, request) });
    }
    const totalBytes = plan.reduce((sum, { work }) => sum + bytesOf(work), 0);
    const points: VerifiedPoint[] = [];
    let before = 0;
    for (const { machine, work } of plan) {
      const done = before;
      const report = (bytes: number): void => {
        progress.report(done + bytes, totalBytes);
      };
      const verified = await throughIndex(
        parts,
        closers,
        { data, machine },
        (view) => verifyDisks(view, work, { vault, clock, signal, progress: report }),
        (results) => results.every((result) => result.ok),
      );
      before += bytesOf(work);
      points.push(...verified);
    }
    ok &&= points.every((point) => point.ok);
    if (points.length === 0) {
      throw new Problem('not-found', `${request.data} holds no point to verify`, {
        remedy: 'name the directory of a target that has points',
      });
    }
    return { ok, points, seconds: (clock.monotonicMs() - started) / 1000 };
  });
}
