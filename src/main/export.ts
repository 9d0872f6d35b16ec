/** Composition of `export`: a disk as of a point, out of a target's directory alone. */
import type { ExportReport, ExportRequest, Progress } from '../cli/roles.ts';
import { exportRaw } from '../recovery/export.ts';
import type { Parts } from './parts.ts';
import { closing, openImage, openVault, throughIndex } from './point-access.ts';

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
