/** Composition of the commands that work from a target's directory alone: points, export, nbd, verify, key export. */
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type {
  DiskOfPoint,
  ExportReport,
  ExportRequest,
  NbdRequest,
  PointReport,
  Progress,
  Roles,
  Running,
  Vault as VaultPlace,
  VerifiedPoint,
  VerifyReport,
  VerifyRequest,
} from '../cli/roles.ts';
import { Problem } from '../kit/problem.ts';
import { serveNbd } from '../nbd/server.ts';
import { exportRaw } from '../recovery/export.ts';
import { PointBackend } from '../recovery/point-backend.ts';
import { PointImage } from '../recovery/point-image.ts';
import { verifyPoint } from '../recovery/verify.ts';
import { listMachines, readStoreFacts } from '../store/machine-directory.ts';
import { MachineView } from '../store/machine-view.ts';
import type { PointBody } from '../store/points-record.ts';
import { Vault } from '../store/vault.ts';
import { readBootId } from './boot-id.ts';
import { RoleBuilder, type Closers, type Parts } from './parts.ts';

/** @throws Problem `not-found` when there is no store, `wrong-version`, `damaged`. */
async function storeFacts(parts: Parts, data: string): Promise<{ vault: string }> {
  const facts = await readStoreFacts(parts.files, data);
  if (facts) return facts;
  throw new Problem('not-found', `${data} is not the directory of a target`, {
    remedy: "name the target's directory with --data",
  });
}

async function openVault(parts: Parts, place: VaultPlace): Promise<Vault> {
  const { files, random } = parts;
  const facts = await storeFacts(parts, place.data);
  return Vault.open({ files, random, keyFile: place.vault, expected: facts.vault });
}

async function openView(parts: Parts, closers: Closers, data: string, machine: string): Promise<MachineView> {
  const { files, random } = parts;
  const scratch = path.join(tmpdir(), `tidemark-index-${random.bytes(8).toString('hex')}`);
  closers.add(() => files.removeTree(scratch));
  const view = await MachineView.open({ files, data, machine, bootId: await readBootId(files), scratch });
  closers.add(() => view.close());
  return view;
}

async function openImage(parts: Parts, closers: Closers, request: DiskOfPoint): Promise<PointImage> {
  const vault = await openVault(parts, request);
  const view = await openView(parts, closers, request.data, request.machine);
  const at = await view.diskAt(view.disk(request.disk), view.choosePoint(request.point), vault);
  return new PointImage(at, parts.clock);
}

/** Runs `work` and closes what it opened, whatever happens. */
async function closing<T>(work: (builder: RoleBuilder) => Promise<T>): Promise<T> {
  const builder = new RoleBuilder();
  try {
    return await work(builder);
  } finally {
    await builder.closers.close();
  }
}

export function exportPoint(
  parts: Parts,
  request: ExportRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<ExportReport> {
  const { files, clock } = parts;
  return closing(async ({ closers }) => {
    const started = clock.monotonicMs();
    const image = await openImage(parts, closers, request);
    const { machine, disk, point, cutTimeMs, geometry, root } = image.at;
    const dataBytes = await exportRaw(image, {
      files,
      clock,
      signal,
      to: request.to,
      overwrite: request.overwrite,
      progress: (doneBytes) => {
        progress.report(doneBytes, geometry.size);
      },
    });
    const seconds = (clock.monotonicMs() - started) / 1000;
    return { machine, disk, point, cutTimeMs, size: geometry.size, dataBytes, root, file: request.to, seconds };
  });
}

export function servePoint(parts: Parts, request: NbdRequest): Promise<Running> {
  return RoleBuilder.build(async (builder) => {
    const image = await openImage(parts, builder.closers, request);
    await image.checkLeaves();
    const name = image.at.disk;
    const { listen } = request;
    const server = await serveNbd({
      exports: new Map([[name, new PointBackend(image)]]),
      listen: 'socket' in listen ? { unixPath: listen.socket } : listen,
      clock: parts.clock,
      files: parts.files,
    });
    builder.closers.add(() => server.close());
    builder.reachable(`disk ${name} as of point ${image.at.point}`, server.uri(name));
  });
}

interface DiskToVerify {
  readonly view: MachineView;
  readonly disk: MachineView['facts']['disks'][number];
  readonly body: PointBody;
}

function disksToVerify(view: MachineView, request: VerifyRequest): DiskToVerify[] {
  const bodies = request.point === 'all' ? view.points.points : [view.choosePoint(request.point)];
  const wanted = request.disk === undefined ? view.facts.disks : [view.disk(request.disk)];
  return bodies.flatMap((body) =>
    wanted.filter(({ no }) => body.disks.some((disk) => disk.no === no)).map((disk) => ({ view, disk, body })),
  );
}

export function verify(
  parts: Parts,
  request: VerifyRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const { files, clock } = parts;
  return closing(async ({ closers }) => {
    const started = clock.monotonicMs();
    const vault = await openVault(parts, request);
    const machines = request.machine === undefined ? await listMachines(files, request.data) : [request.machine];
    const work: DiskToVerify[] = [];
    let ok = true;
    for (const machine of machines) {
      const view = await openView(parts, closers, request.data, machine);
      if (view.pointsDamaged) ok = false;
      work.push(...disksToVerify(view, request));
    }
    const totalBytes = work.reduce(
      (sum, { body, disk }) => sum + (body.disks.find(({ no }) => no === disk.no)?.size ?? 0),
      0,
    );
    const points: VerifiedPoint[] = [];
    let before = 0;
    for (const { view, disk, body } of work) {
      const image = new PointImage(await view.diskAt(disk, body, vault), clock);
      const done = before;
      const result = await verifyPoint(image, {
        clock,
        signal,
        progress: (bytes) => {
          progress.report(done + bytes, totalBytes);
        },
      });
      before += image.geometry.size;
      ok &&= result.ok;
      points.push({ machine: view.machine, disk: disk.name, point: body.point, root: image.at.root, ...result });
    }
    return { ok, points, seconds: (clock.monotonicMs() - started) / 1000 };
  });
}

function pointReport(view: MachineView, body: PointBody): PointReport {
  return {
    machine: view.machine,
    point: body.point,
    cutTimeMs: body.cutTimeMs,
    committedMs: body.committedMs,
    provenMs: view.points.stateOf(body.point) === 'proven' ? (view.points.proven.get(body.point)?.atMs ?? null) : null,
    damaged: view.points.stateOf(body.point) === 'damaged',
    consistency: body.consistency,
    disks: body.disks.map(({ no, size, root, kind, payloadBytes, writes }) => ({
      name: view.facts.disks.find((disk) => disk.no === no)?.name ?? `disk-${no}`,
      size,
      root,
      kind,
      payloadBytes,
      writes: writes ?? null,
    })),
  };
}

export function listPoints(parts: Parts, request: Parameters<Roles['listPoints']>[0]): Promise<readonly PointReport[]> {
  return closing(async ({ closers }) => {
    await storeFacts(parts, request.data);
    const machines = request.machine === undefined ? await listMachines(parts.files, request.data) : [request.machine];
    const reports: PointReport[] = [];
    for (const machine of machines) {
      const view = await openView(parts, closers, request.data, machine);
      reports.push(...view.points.points.map((body) => pointReport(view, body)));
    }
    return reports;
  });
}

export async function keyExport(
  parts: Parts,
  request: Parameters<Roles['keyExport']>[0],
): Promise<{ file: string; vaultId: string }> {
  const { files, clock } = parts;
  const vault = await openVault(parts, request);
  await vault.exportRecovery({ files, to: request.to, dataDirectory: request.data, wallMs: clock.wallMs() });
  return { file: request.to, vaultId: vault.id };
}
