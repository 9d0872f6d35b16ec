/** Composition of commands that work from a target's directory alone: points, nbd, key export (`export.ts` and `verify.ts` are two more). */
import { availableParallelism, tmpdir } from 'node:os';
import * as path from 'node:path';
import type { GapReport, NbdRequest, PointReport, PointsReport, Roles, Running } from '../cli/roles.ts';
import { invariant } from '../kit/invariant.ts';
import { type NbdListen, serveNbd } from '../nbd/server.ts';
import { writeClientCertificates } from '../recovery/export-tls.ts';
import { PointBackend } from '../recovery/point-backend.ts';
import { qemuImageWords } from '../recovery/qemu.ts';
import { ReadPool } from '../recovery/read-pool.ts';
import { listMachines, machinePaths } from '../store/machine-directory.ts';
import type { MachineView } from '../store/machine-view.ts';
import type { PointBody } from '../store/points-record.ts';
import { makeExportCertificates } from '../transport/export-certificates.ts';
import { writeAside } from './data-writer.ts';
import { RoleBuilder, type Parts } from './parts.ts';
import { closing, openServedImages, openVault, openView, storeFacts } from './point-access.ts';

export function servePoint(parts: Parts, request: NbdRequest): Promise<Running> {
  return RoleBuilder.build(async (builder) => {
    const vault = await openVault(parts, request);
    const pool = new ReadPool({ threads: availableParallelism() });
    builder.closers.add(() => pool.close());
    const [image] = await openServedImages(parts, builder.closers, { ...request, disks: [request.disk] }, vault, pool);
    invariant(image, 'an image for each disk');
    const name = image.at.disk;
    const listen = await listenOf(parts, builder, request);
    const exports = new Map([[name, new PointBackend(image)]]);
    const server = await serveNbd({ exports, listen, clock: parts.clock, files: parts.files });
    builder.closers.add(() => server.close());
    const what = `disk ${name} as of point ${image.at.point}`;
    const uri = server.uri(name);
    builder.reachable(what, uri);
    const forQemu = qemuImageWords(uri);
    if (forQemu !== null) builder.reachable(`${what}, for qemu-img,`, forQemu);
  });
}

async function listenOf(
  { files, random, clock }: Parts,
  { closers }: RoleBuilder,
  { listen }: NbdRequest,
): Promise<NbdListen> {
  if ('socket' in listen) return { unixPath: listen.socket };
  if (!('tls' in listen)) return listen;
  const clientDirectory = path.join(tmpdir(), `tidemark-nbd-${random.bytes(8).toString('hex')}`);
  closers.add(() => files.removeTree(clientDirectory));
  const made = await makeExportCertificates(listen.tls.host, clock.wallMs());
  await writeClientCertificates(files, clientDirectory, made);
  return { ...listen.tls, tls: { ...made.server, caPem: made.caPem, clientDirectory } };
}

function pointReport(view: MachineView, body: PointBody, boots: string): PointReport {
  const booted = view.points.bootedAt(body.point);
  return {
    machine: view.machine,
    point: body.point,
    cutTimeMs: body.cutTimeMs,
    committedMs: body.committedMs,
    provenMs: view.points.stateOf(body.point) === 'proven' ? (view.points.proven.get(body.point)?.atMs ?? null) : null,
    damaged: view.points.stateOf(body.point) === 'damaged',
    pinned: view.points.isPinned(body.point),
    booted: booted && {
      atMs: booted.atMs,
      seconds: booted.seconds,
      detail: booted.detail,
      evidence: path.join(boots, String(body.point), booted.failover),
    },
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
      points.push(
        ...view.points.kept.map((body) => pointReport(view, body, machinePaths(request.data, machine).boots)),
      );
      gaps.push(...gapReports(view));
    }
    return { points, gaps };
  });
}

export async function pinPoint(parts: Parts, request: Parameters<Roles['pinPoint']>[0]): Promise<void> {
  const { data, machine, point, pinned } = request;
  await closing(async ({ closers }) => {
    const view = await openView(parts, closers, { data, machine });
    // Says what is wrong with the number before a record is refused for it.
    view.choosePoint(point);
  });
  await writeAside(parts, data, machine, { type: 'pin', body: { point, pinned, atMs: parts.clock.wallMs() } });
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
