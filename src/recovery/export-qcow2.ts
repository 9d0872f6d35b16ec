/**
 * Export of a point to qcow2: `qemu-img convert` reads it from an NBD export of our own on a private socket, so what it gets are checked blocks, and
 * damage reaches it as a failed read. Its file is made durable and gets its name as a raw one does.
 *
 * A conversion that was cut short begins again: what of a qcow2 file is whole can not be told without reading all of it. Who wants to go on exports
 * raw and converts that.
 */
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { isProblem, Problem } from '../kit/problem.ts';
import type { Random } from '../kit/random.ts';
import { limits } from '../limits.ts';
import type { Backend } from '../nbd/backend.ts';
import { serveNbd } from '../nbd/server.ts';
import type { Files } from '../posix/files.ts';
import { runProgram, whyNotExecutable } from '../posix/program.ts';
import type { Copied } from './export-copy.ts';
import { checkDestination, exportAs, failure, type ExportOptions } from './export.ts';
import { PointBackend } from './point-backend.ts';
import type { PointImage } from './point-image.ts';

export interface Qcow2Options extends Omit<ExportOptions, 'leafKeys'> {
  readonly random: Random;
  /** Where programs are looked for: the caller's PATH. */
  readonly programPath: string;
  readonly compress: boolean;
}

const program = 'qemu-img';

/** The image's leaves are checked first. @throws Problem as `exportRaw`, and `not-found` without qemu-img. */
export async function exportQcow2(image: PointImage, options: Qcow2Options): Promise<Copied> {
  const { files, to } = options;
  if (await checkDestination(files, options)) {
    throw new Problem('bad-argument', `${to} is a block device`, { remedy: 'export to it with --format raw' });
  }
  const qemuImg = await findProgram(options.programPath);
  await image.checkLeaves();
  return exportAs(options, false, (partial) =>
    withPrivateDirectory(options, async (directory) => {
      const source = new WatchedBackend(new PointBackend(image), options.progress);
      const server = await serveNbd({
        exports: new Map([['point', source]]),
        listen: { unixPath: path.join(directory, 'point.sock') },
        clock: options.clock,
        files,
      });
      try {
        await convert(qemuImg, server.uri('point'), partial, source, options);
      } finally {
        await server.close();
      }
      return { written: await makeDurable(files, partial, to), kept: 0 };
    }),
  );
}

/** What it can not serve is kept: the client only says that a read failed. */
class WatchedBackend implements Backend {
  readonly #backend: Backend;
  readonly #progress: (doneBytes: number) => void;
  #done = 0;
  problem: Problem | null = null;

  constructor(backend: Backend, progress: (doneBytes: number) => void) {
    this.#backend = backend;
    this.#progress = progress;
  }

  get size(): number {
    return this.#backend.size;
  }
  get readOnly(): boolean {
    return this.#backend.readOnly;
  }
  get multiConnection(): boolean {
    return this.#backend.multiConnection;
  }
  get preferredBytes(): number {
    return this.#backend.preferredBytes;
  }

  async read(into: Uint8Array, offset: number): Promise<void> {
    try {
      await this.#backend.read(into, offset);
    } catch (error) {
      if (isProblem(error)) this.problem ??= error;
      throw error;
    }
    this.#done = Math.max(this.#done, offset + into.byteLength);
    this.#progress(this.#done);
  }

  write(data: Uint8Array, offset: number, fua: boolean): Promise<void> {
    return this.#backend.write(data, offset, fua);
  }
  flush(): Promise<void> {
    return this.#backend.flush();
  }
  zero(offset: number, length: number, fua: boolean, mayUnmap: boolean): Promise<void> {
    return this.#backend.zero(offset, length, fua, mayUnmap);
  }
  async extents(offset: number, length: number): ReturnType<Backend['extents']> {
    try {
      return await this.#backend.extents(offset, length);
    } catch (error) {
      if (isProblem(error)) this.problem ??= error;
      throw error;
    }
  }
}

async function convert(
  qemuImg: string,
  uri: string,
  partial: string,
  source: WatchedBackend,
  { to, compress, clock, signal, progress }: Qcow2Options,
): Promise<void> {
  const interrupted = (): Problem =>
    new Problem('interrupted', `the export to ${to} was interrupted`, {
      remedy: 'run it again: it begins anew (an export with --format raw would go on)',
      retryable: true,
    });
  if (signal.aborted) throw interrupted();
  const end = await runProgram({
    path: qemuImg,
    args: ['convert', '-f', 'raw', '-O', 'qcow2', ...(compress ? ['-c'] : []), uri, partial],
    environment: { LC_ALL: 'C' },
    timeoutMs: limits.recovery.convertMs,
    graceMs: limits.recovery.convertGraceMs,
    signal,
    clock,
  });
  if (end.kind === 'exited' && end.code === 0 && source.problem === null) {
    progress(source.size);
    return;
  }
  if (source.problem) throw source.problem;
  if (end.kind === 'ended' && end.why === 'abort') throw interrupted();
  if (end.kind === 'not-started') throw new Problem('not-found', `${qemuImg} can not be run: ${end.reason}`);
  if (/No space left/i.test(end.said)) throw new Problem('full', `${to}: no space left`, { remedy: 'make room there' });
  throw new Problem('not-writable', `${program} could not write ${to}: ${end.said}`, {
    remedy: 'see what it says; an export with --format raw needs no other program',
  });
}

async function findProgram(searchPath: string): Promise<string> {
  for (const directory of searchPath.split(path.delimiter)) {
    if (!path.isAbsolute(directory)) continue;
    const candidate = path.join(directory, program);
    if ((await whyNotExecutable(candidate)) === null) return candidate;
  }
  throw new Problem('not-found', `${program} is not installed, and qcow2 is made by it`, {
    remedy: 'install it (Debian and Ubuntu: apt install qemu-utils; Fedora: qemu-img), or export with --format raw',
  });
}

/** For the socket: nobody else may read the disk through it. */
async function withPrivateDirectory<T>(
  { files, random }: Pick<Qcow2Options, 'files' | 'random'>,
  work: (directory: string) => Promise<T>,
): Promise<T> {
  const directory = path.join(tmpdir(), `tidemark-export-${random.bytes(8).toString('hex')}`);
  await files.makeDirectory(directory);
  try {
    return await work(directory);
  } finally {
    await files.removeTree(directory);
  }
}

/** qemu-img does not sync what it writes. Returns the bytes of the file. */
async function makeDurable(files: Files, partial: string, to: string): Promise<number> {
  const file = await files.open(partial, 'write');
  try {
    await file.datasync();
    return file.facts().size;
  } catch (error) {
    throw failure(error, partial, to);
  } finally {
    await file.close();
  }
}
