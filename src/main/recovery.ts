/** Composition of the commands that work from a target's directory alone: points, export, nbd, verify, key export. */
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type {
  DiskOfPoint,
  ExportReport,
  ExportRequest,
  GapReport,
  NbdRequest,
  PointReport,
  PointsReport,
  Progress,
  Roles,
  Running,
  Vault as VaultPlace,
  VerifiedPoint,
  VerifyReport,
  VerifyRequest,
} from '../cli/roles.ts';
import type { Clock } from '../kit/clock.ts';
import { isProblem, Problem } from '../kit/problem.ts';
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

async function openView(
  parts: Parts,
  closers: Closers,
  place: { readonly data: string; readonly machine: string },
  ownIndex = false,
): Promise<MachineView> {
  const { files, clock, random } = parts;
  const { data, machine } = place;
  const scratch = path.join(tmpdir(), `tidemark-index-${random.bytes(8).toString('hex')}`);
  closers.add(() => files.removeTree(scratch));
  const view = await MachineView.open({
    files,
    clock,
    data,
    machine,
    bootId: await readBootId(files),
    scratch,
    ownIndex,
  });
  closers.add(() => view.close());
  return view;
}

/** Whether a rebuilt index may do better: stored bytes seem damaged, or reading the index itself failed in an unforeseen way. */
function mayBeIndex(error: unknown): boolean {
  return !isProblem(error) || error.code === 'damaged' || error.code === 'index-unreadable';
}

/**
 * Reads through the target's index, and where that ends in damage once more through one built from the segments: the index is a cache,
 * what it says wrong must not cost a point.
 */
async function throughIndex<T>(
  parts: Parts,
  closers: Closers,
  place: { readonly data: string; readonly machine: string },
  read: (view: MachineView) => Promise<T>,
  isGood: (value: T) => boolean = () => true,
): Promise<T> {
  const view = await openView(parts, closers, place);
  try {
    const value = await read(view);
    if (isGood(value) || view.hasOwnIndex) return value;
  } catch (error) {
    if (view.hasOwnIndex || !mayBeIndex(error)) throw error;
  }
  parts
    .loggerOf({ logLevel: 'warn' }, 'recovery')
    .warn({ machine: place.machine }, 'reading failed by the index of the target; trying one built from the segments');
  return read(await openView(parts, closers, place, true));
}

/** The image's leaves were checked against the point's root. */
async function openImage(view: MachineView, vault: Vault, parts: Parts, request: DiskOfPoint): Promise<PointImage> {
  const at = await view.diskAt(view.disk(request.disk), view.choosePoint(request.point), vault);
  const image = new PointImage(at, parts.clock);
  await image.checkLeaves();
  return image;
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
    const vault = await openVault(parts, request);
    return throughIndex(parts, closers, request, async (view) => {
      const image = await openImage(view, vault, parts, request);
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
  });
}

export function servePoint(parts: Parts, request: NbdRequest): Promise<Running> {
  return RoleBuilder.build(async (builder) => {
    const vault = await openVault(parts, request);
    const image = await throughIndex(parts, builder.closers, request, (view) => openImage(view, vault, parts, request));
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

function pointReport(view: MachineView, body: PointBody): PointReport {
  return {
    machine: view.machine,
    point: body.point,
    cutTimeMs: body.cutTimeMs,
    committedMs: body.committedMs,
    provenMs: view.points.stateOf(body.point) === 'proven' ? (view.points.proven.get(body.point)?.atMs ?? null) : null,
    damaged: view.points.stateOf(body.point) === 'damaged',
    consistency: body.consistency,
    evidence: body.evidence ?? null,
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

function gapReports(view: MachineView): GapReport[] {
  const { points, gaps } = view.points;
  return gaps
    .map((gap) => ({
      machine: view.machine,
      afterPoint: points.findLast(({ cutTimeMs }) => cutTimeMs <= gap.atMs)?.point ?? null,
      ...gap,
    }))
    .sort((a, b) => a.atMs - b.atMs);
}

export function listPoints(parts: Parts, request: Parameters<Roles['listPoints']>[0]): Promise<PointsReport> {
  return closing(async ({ closers }) => {
    await storeFacts(parts, request.data);
    const machines = request.machine === undefined ? await listMachines(parts.files, request.data) : [request.machine];
    const points: PointReport[] = [];
    const gaps: GapReport[] = [];
    for (const machine of machines) {
      const view = await openView(parts, closers, { data: request.data, machine });
      points.push(...view.points.points.map((body) => pointReport(view, body)));
      gaps.push(...gapReports(view));
    }
    return { points, gaps };
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
