/**
 * The segment file being written, and the spare that becomes the next one. Durability happens here and nowhere else in the log.
 *
 * Invariants:
 *  1. A group is one write and one datasync. The first group of a segment also makes its name durable before it resolves.
 *  2. After any failure the file is closed and never written, synced or truncated again (C4). Whoever calls gives it up.
 *  3. A segment begins as a fresh file of zeros (the spare): reserved space reads as zeros, so what follows the last
 *     entry reads as nothing. The spare takes the segment's name by one rename, over whatever a failed attempt left there.
 */
import type { File, Files } from '../posix/files.ts';
import { segmentName } from './segment-format.ts';
import type { PlacedEntry } from './segment-plan.ts';
import type { SegmentSpace } from './segment-space.ts';

const spareSuffix = '.spare';

export interface SegmentFileOptions {
  readonly files: Files;
  readonly directory: string;
  readonly segmentBytesMax: number;
  readonly space: SegmentSpace;
}

interface Current {
  readonly segment: number;
  readonly path: string;
  readonly file: File;
  /** Its name is durable. */
  named: boolean;
}

export class SegmentFile {
  readonly #options: SegmentFileOptions;
  #current: Current | null = null;
  /** The spare made or being made; `null` in it when there was no room or no luck. */
  #spare: Promise<File | null> | null = null;

  constructor(options: SegmentFileOptions) {
    this.#options = options;
  }

  /** Makes a group of one segment durable. After a rejection call `abandon`. The parts must not change until it resolves. */
  async commit(group: readonly [PlacedEntry, ...PlacedEntry[]]): Promise<void> {
    const { files, directory, segmentBytesMax } = this.#options;
    const [first] = group;
    const { segment } = first.position;
    if (this.#current?.segment !== segment) {
      const full = this.#current;
      this.#current = null;
      // Durable to its end: it needs no close to be whole, and is not what `abandon` gives up.
      await full?.file.close().catch(() => undefined);
      const path = `${directory}/${segmentName(segment)}`;
      this.#current = { segment, path, file: await this.#take(segment, path), named: false };
    }
    const { file } = this.#current;
    const end = group.at(-1)?.end ?? first.end;
    await file.write(
      group.flatMap((entry) => entry.parts),
      first.from,
    );
    const last = group.at(-1)?.last === true;
    // Reserved space that no entry will use goes back.
    if (last) await file.truncate(end);
    await file.datasync();
    if (!this.#current.named) {
      await files.syncDirectory(directory);
      this.#current.named = true;
    }
    // Past the middle, the next segment is made ready off the path of writers.
    if (!last && end > segmentBytesMax / 2) this.#spare ??= this.#makeSpare(segment + 1, true);
  }

  /** Invariant 2. `unlink`: nothing in the file counts, remove it (best effort; the name is taken over anyway). */
  async abandon(unlink: boolean): Promise<void> {
    const current = this.#current;
    this.#current = null;
    await current?.file.close().catch(() => undefined);
    if (current && unlink) await this.#options.files.remove(current.path).catch(() => undefined);
  }

  /** Gives the spare's space back. */
  async dropSpare(): Promise<void> {
    const spare = await this.#takeSpare();
    if (!spare) return;
    await spare.close().catch(() => undefined);
    await this.#options.files.remove(spare.path).catch(() => undefined);
  }

  async close(): Promise<void> {
    await this.dropSpare();
    const current = this.#current;
    this.#current = null;
    await current?.file.close();
  }

  /** Whoever asks first gets it, so it is never both used and dropped. */
  #takeSpare(): Promise<File | null> {
    const spare = this.#spare;
    this.#spare = null;
    return spare ?? Promise.resolve(null);
  }

  /** Invariant 3. */
  async #take(segment: number, path: string): Promise<File> {
    const { files, directory } = this.#options;
    const ready = await this.#takeSpare();
    const spare = ready ?? (await this.#makeSpare(segment, false));
    if (!spare) throw new Error(`${directory}: no file for segment ${segment}`);
    try {
      await files.rename(spare.path, path);
    } catch (error) {
      await spare.close().catch(() => undefined);
      await files.remove(spare.path).catch(() => undefined);
      throw error;
    }
    return spare;
  }

  /** @param ahead failures are nobody's problem yet: `null`, and the segment is made when it is needed. */
  async #makeSpare(segment: number, ahead: boolean): Promise<File | null> {
    const { files, directory, segmentBytesMax, space } = this.#options;
    const path = `${directory}/${segmentName(segment)}${spareSuffix}`;
    let file: File | null = null;
    try {
      const room = await space.hasRoomFor(segmentBytesMax);
      if (ahead && !room) return null;
      await files.remove(path);
      file = await files.open(path, 'exclusive');
      if (room) reserve(file, segmentBytesMax);
      return file;
    } catch (error) {
      await file?.close().catch(() => undefined);
      await files.remove(path).catch(() => undefined);
      if (ahead) return null;
      throw error;
    }
  }
}

/** Reserving is a favour to the writes that follow; without it they find their own space or fail themselves. */
function reserve(file: File, bytes: number): void {
  try {
    file.allocateSync(0, bytes, false);
  } catch {
    // Less space than was thought: the file grows as it is written.
  }
}

/** Removes spares a former process left. */
export async function removeSpares(files: Files, directory: string): Promise<void> {
  for (const name of await files.list(directory))
    if (name.endsWith(`.seg${spareSuffix}`)) await files.remove(`${directory}/${name}`);
}
