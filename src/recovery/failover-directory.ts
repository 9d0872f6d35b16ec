/**
 * The directory of a failover (FAILOVER.md): what it is, what state it is in, where its files lie. Who changes one holds the machine's turn
 * (`takeFailoverTurn`), so that two commands, or a command and a target that starts, do not work on the same one.
 *
 * Invariants:
 *  1. `failover.json` is replaced whole and durably. A directory without it was killed while it was made or removed, and promises nothing.
 *  2. A number is given once, also when what had it is gone: `count.json` is durable before the directory is made.
 *  3. The process that serves a failover holds its directory locked, from before it looks into it until it ends.
 */
import * as path from 'node:path';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { isProblem, Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { acquireLock, type Lock, type LockIdentity } from '../posix/lock.ts';
import { failoverIdPattern, failoverNumber, failoversOf, listFailoverIds } from '../store/failover-ids.ts';
import { diskName, machineName, safeInteger } from '../wire/control-body.ts';
import { definitionSchema } from '../wire/definition.ts';
import { createOverlay, type OverlayPaths } from './overlay.ts';

const format = 1;
/** Of the address of a Unix socket. */
const socketPathBytesMax = 107;
const privateName = 'tidemark-failover-';

const tcpAddress = z.object({ host: z.string(), port: z.number().int().min(0).max(65_535) });

const failoverSchema = z.object({
  format: z.literal(format),
  id: z.string().regex(failoverIdPattern),
  kind: z.enum(['test', 'unplanned']),
  machine: machineName,
  point: safeInteger.min(1),
  /** Of the machine: before a test, from an unplanned failover on. */
  generation: safeInteger,
  createdMs: z.number().min(0),
  state: z.enum(['starting', 'running', 'committed', 'ending']),
  disks: z
    .array(z.object({ no: z.number().int().min(0), name: diskName, size: safeInteger }))
    .min(1)
    .max(limits.disk.perMachineMax),
  listen: z.union([
    z.object({ socket: z.string().max(socketPathBytesMax) }),
    tcpAddress,
    // By another name, so that who does not know of TLS refuses it and does not serve it in the clear.
    z.object({ tls: tcpAddress }),
  ]),
  /** Overlays and maps together. */
  spaceBytes: safeInteger,
  definition: definitionSchema.nullable(),
});
const processSchema = z.object({
  pid: z.number().int().min(1),
  startedMs: z.number(),
  disks: z.array(z.object({ name: z.string(), uri: z.string() })),
});
const countSchema = z.object({ last: safeInteger });

export type Failover = z.infer<typeof failoverSchema>;
export type FailoverProcess = z.infer<typeof processSchema>;

export class FailoverDirectory {
  readonly id: string;
  readonly path: string;
  readonly #files: Files;

  constructor(files: Files, data: string, machine: string, id: string) {
    if (!failoverIdPattern.test(id)) {
      throw new Problem('bad-argument', `"${id}" is not a failover`, {
        remedy: 'tidemark failover list shows which there are',
      });
    }
    this.#files = files;
    this.id = id;
    this.path = path.join(failoversOf(data, machine), id);
  }

  /** What the process that serves it says. */
  get log(): string {
    return path.join(this.path, 'serve.log');
  }

  get domainXml(): string {
    return path.join(this.path, 'domain.xml');
  }

  /** What TLS needs: directories `client` and `server` (`export-tls.ts`). */
  get tls(): string {
    return path.join(this.path, 'tls');
  }

  overlay(diskNo: number): OverlayPaths {
    const file = (suffix: string): string => path.join(this.path, `disk-${diskNo}.${suffix}`);
    return { overlay: file('overlay'), map: file('map') };
  }

  /** Where its socket lies: here, or in a directory of its own in `temporary` when that path is too long. `secret`: a name nobody guesses. */
  socket(temporary: string, secret: string): string {
    const here = path.join(this.path, 'nbd.sock');
    if (Buffer.byteLength(here) <= socketPathBytesMax) return here;
    return path.join(temporary, `${privateName}${secret}`, 'nbd.sock');
  }

  /** Null: there is none, or what is left of one (invariant 1). @throws Problem `damaged`. */
  async read(): Promise<Failover | null> {
    const failover = await readJson(this.#files, this.#file, failoverSchema);
    if (failover !== 'damaged') return failover;
    throw new Problem('damaged', `${this.#file} can not be understood`, {
      remedy: 'restore the file from a copy; what was written in this failover lies beside it',
    });
  }

  async write(failover: Failover): Promise<void> {
    await this.#files.replaceFile(this.#file, jsonBytes(failoverSchema.parse(failover)));
  }

  /** Step 1: the directory, `failover.json` as `starting`, empty overlays. Durable when it resolves. */
  async create(failover: Failover): Promise<void> {
    await this.#files.makeDirectory(this.path);
    await this.write(failover);
    for (const { no, size } of failover.disks)
      await createOverlay(this.#files, this.overlay(no), { point: failover.point, diskSize: size });
  }

  /** Null: nobody serves it, or nobody has said so yet. A file that is not understood is as good as none. */
  async process(): Promise<FailoverProcess | null> {
    const found = await readJson(this.#files, this.#processFile, processSchema);
    return found === 'damaged' ? null : found;
  }

  async writeProcess(process: FailoverProcess): Promise<void> {
    await this.#files.replaceFile(this.#processFile, jsonBytes(process));
  }

  async removeProcess(): Promise<void> {
    await this.#files.remove(this.#processFile);
  }

  /** Invariant 3. @param says what is told to who asks for the holder. @throws Problem `locked`: it is served. */
  lock(clock: Clock, identity: LockIdentity, says?: () => unknown): Promise<Lock> {
    return acquireLock(this.#files, clock, this.path, identity, says);
  }

  /** Removes all of it; its process has ended. Killed anywhere, the next one goes on: `ending` is durable before the first file goes. */
  async remove(): Promise<void> {
    const failover = await this.read().catch(() => null);
    if (failover && failover.state !== 'ending') await this.write({ ...failover, state: 'ending' });
    const outside = failover && 'socket' in failover.listen ? path.dirname(failover.listen.socket) : this.path;
    if (path.basename(outside).startsWith(privateName)) await this.#files.removeTree(outside);
    for (const name of await this.#files.list(this.path))
      if (name !== 'failover.json') await this.#files.removeTree(path.join(this.path, name));
    await this.#files.removeTree(this.path);
    await this.#files.syncDirectory(path.dirname(this.path));
  }

  get #file(): string {
    return path.join(this.path, 'failover.json');
  }

  get #processFile(): string {
    return path.join(this.path, 'process.json');
  }
}

/** All there are, whatever their state, by number. */
export async function listFailovers(files: Files, data: string, machine: string): Promise<FailoverDirectory[]> {
  const ids = await listFailoverIds(files, data, machine);
  return ids.map((id) => new FailoverDirectory(files, data, machine, id));
}

/** Invariant 2. The machine's turn is held. */
export async function newFailoverDirectory(
  files: Files,
  data: string,
  machine: string,
  kind: Failover['kind'],
): Promise<FailoverDirectory> {
  const file = path.join(failoversOf(data, machine), 'count.json');
  const counted = await readJson(files, file, countSchema);
  const there = (await listFailovers(files, data, machine)).map(({ id }) => failoverNumber(id));
  const last = Math.max(0, ...there, counted === null || counted === 'damaged' ? 0 : counted.last) + 1;
  await files.replaceFile(file, jsonBytes({ last }));
  return new FailoverDirectory(files, data, machine, `${kind}-${last}`);
}

/** Waits until nobody else changes failovers of the machine. @throws Problem `locked` when that takes too long. */
export async function takeFailoverTurn(
  place: { readonly files: Files; readonly clock: Clock; readonly data: string; readonly machine: string },
  identity: LockIdentity,
): Promise<Lock> {
  const { files, clock, data, machine } = place;
  const directory = failoversOf(data, machine);
  await files.makeDirectory(directory);
  const deadlineMs = clock.monotonicMs() + limits.recovery.failoverTurnMs;
  for (;;) {
    try {
      return await acquireLock(files, clock, directory, identity);
    } catch (error) {
      const late = clock.monotonicMs() > deadlineMs;
      if (!isProblem(error) || error.code !== 'locked' || late) throw error;
      await clock.sleep(limits.recovery.failoverPollMs);
    }
  }
}

async function readJson<T>(files: Files, file: string, schema: z.ZodType<T>): Promise<T | null | 'damaged'> {
  let text: string;
  try {
    text = (await files.readWhole(file)).toString('utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    const parsed = schema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : 'damaged';
  } catch {
    return 'damaged';
  }
}

function jsonBytes(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
}
