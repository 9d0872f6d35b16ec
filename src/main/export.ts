/** Composition of `export`: a disk as of a point, out of a target's directory alone. */
import { availableParallelism } from 'node:os';
import type { ExportReport, ExportRequest, Progress } from '../cli/roles.ts';
import { exportRaw, type ExportOptions } from '../recovery/export.ts';
import { exportQcow2 } from '../recovery/export-qcow2.ts';
import { PointImage } from '../recovery/point-image.ts';
import { ReadPool } from '../recovery/read-pool.ts';
import { holdPoints } from '../store/points-in-use.ts';
import type { Parts } from './parts.ts';
import { closing, openVault, throughIndex } from './point-access.ts';

export function exportPoint(
  parts: Parts,
  request: ExportRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<ExportReport> {
  const { files, clock, random } = parts;
  return closing(async ({ closers }) => {
    const started = clock.monotonicMs();
    const vault = await openVault(parts, request);
    const pool = new ReadPool({ threads: availableParallelism() });
    closers.add(() => pool.close());
    return throughIndex(parts, closers, request, async (view) => {
      const body = view.choosePoint(request.point);
      const held = { points: [body.point], pointsNow: () => view.pointsNow() };
      const hold = await holdPoints({ ...request, files, clock, random, role: 'export', ...held });
      closers.add(() => hold.release());
      const facts = view.disk(request.disk);
      const image = new PointImage(await view.diskAt(facts, body, vault), clock, { pool });
      const { machine, disk, point, cutTimeMs, geometry, root } = image.at;
      const id = Buffer.from(facts.id, 'hex');
      const options: ExportOptions = {
        files,
        clock,
        signal,
        to: request.to,
        overwrite: request.overwrite,
        leafKeys: facts.keys.map((wrapped) => vault.unwrapDiskKeys(id, wrapped).leafKey),
        progress: (doneBytes) => {
          progress.report(doneBytes, geometry.size);
        },
      };
      const { written, kept } =
        request.format === 'raw'
          ? await exportRaw(image, options)
          : await exportQcow2(image, { ...request, ...options, random });
      const seconds = (clock.monotonicMs() - started) / 1000;
      const file = { format: request.format, dataBytes: written + kept, keptBytes: kept, file: request.to };
      return { machine, disk, point, cutTimeMs, size: geometry.size, root, ...file, seconds };
    });
  });
}
