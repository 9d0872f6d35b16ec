/**
 * The directories of a store (FORMAT.md): DATA with its `tidemark.json`, and one directory per machine with its `machine.json`.
 *
 * Invariants:
 *  1. A directory of another format is never written, nor read as if it were this one.
 *  2. One writer per DATA directory: `openDataDirectory` holds the lock until `close`. Readers take none.
 *  3. Both files are replaced whole and durably; a crash leaves the old or the new one.
 *  4. A machine's name is checked before it becomes part of a path (C7).
 */
import * as path from 'node:path';
import { z } from 'zod';
import type { Clock } from '../kit/clock.ts';
import { Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';
import { acquireLock, type LockIdentity } from '../posix/lock.ts';
import { diskName, hex, machineName, safeInteger } from '../wire/control-body.ts';

export const storeFormat = 2;
const storeFileName = 'tidemark.json';
const machineFileName = 'machine.json';
export const machinesName = 'machines';

const storeSchema = z.object({ format: z.literal(storeFormat), vault: hex(16), created: z.number().min(0) });
const wrappedKey = z.string().regex(/^([0-9a-f]{2}){1,256}$/);
const machineSchema = z.object({
  id: hex(16),
  disks: z
    .array(
      z.object({
        no: z.number().int().min(0).max(0xfffe),
        id: hex(16),
        name: diskName,
        blockSize: safeInteger.min(limits.disk.blockBytesMin).max(limits.disk.blockBytesMax),
        keys: z
          .array(z.object({ version: z.number().int().min(1).max(0xffff), diskKey: wrappedKey, leafKey: wrappedKey }))
          .min(1),
      }),
    )
    .max(limits.disk.perMachineMax)
    .refine((disks) => new Set(disks.map(({ no }) => no)).size === disks.length, 'a disk number stands twice')
    .refine((disks) => new Set(disks.map(({ name }) => name)).size === disks.length, 'a disk name stands twice'),
});

/** `tidemark.json`. */
export interface StoreFacts {
  readonly format: typeof storeFormat;
  /** 32 hex digits. */
  readonly vault: string;
  /** Milliseconds since the Unix epoch. */
  readonly created: number;
}

/** `machine.json`. Ids are 32 hex digits, keys hex of what the vault wrapped. */
export type MachineFacts = z.infer<typeof machineSchema>;
export type DiskFacts = MachineFacts['disks'][number];

/** Where a machine's parts lie. */
export interface MachinePaths {
  readonly directory: string;
  readonly pointsLog: string;
  readonly segments: string;
  readonly index: string;
  readonly leaves: string;
  /** Evidence that points start, by point. */
  readonly boots: string;
}

/** @throws Problem `bad-argument` when the name is not one a certificate could carry. */
export function machinePaths(data: string, machine: string): MachinePaths {
  if (!machineName.safeParse(machine).success) {
    throw new Problem('bad-argument', `"${machine}" is not a machine name`, {
      remedy: 'use 1 to 63 characters a-z, 0-9, ".", "_", "-", beginning with a letter or digit',
    });
  }
  const directory = path.join(data, machinesName, machine);
  return {
    directory,
    pointsLog: path.join(directory, 'points.log'),
    segments: path.join(directory, 'segments'),
    index: path.join(directory, 'index'),
    leaves: path.join(directory, 'leaves'),
    boots: path.join(directory, 'boots'),
  };
}

async function readJson(files: Files, file: string): Promise<unknown> {
  let text: Buffer;
  try {
    text = await files.readWhole(file);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
  try {
    return JSON.parse(text.toString('utf8'));
  } catch {
    throw damaged(file, 'is not JSON');
  }
}

function damaged(file: string, what: string): Problem {
  return new Problem('damaged', `${file} ${what}`, { remedy: 'restore the file from a copy of the data directory' });
}

function complaint(error: z.ZodError): string {
  const issue = error.issues[0];
  return `does not fit its schema: ${issue?.path.join('.') ?? ''} ${issue?.message ?? ''}`;
}

/**
 * The facts of a DATA directory; `null` when it was never one (missing, or without `tidemark.json` and machines).
 * @throws Problem `wrong-version`, `damaged`.
 */
export async function readStoreFacts(files: Files, data: string): Promise<StoreFacts | null> {
  const file = path.join(data, storeFileName);
  const value = await readJson(files, file);
  if (value === null) {
    if ((await files.list(path.join(data, machinesName))).length === 0) return null;
    throw damaged(file, 'is missing, though there are machines beside it');
  }
  const claimed = z.object({ format: z.unknown() }).safeParse(value);
  if (claimed.success && claimed.data.format !== undefined && claimed.data.format !== storeFormat) {
    throw new Problem(
      'wrong-version',
      `${data} has format ${JSON.stringify(claimed.data.format)}, this program reads format ${storeFormat}`,
      { remedy: 'use the version of tidemark that wrote this directory, or another directory' },
    );
  }
  const parsed = storeSchema.safeParse(value);
  if (!parsed.success) throw damaged(file, complaint(parsed.error));
  return parsed.data;
}

/** Names of the machines there are, sorted. Directories no machine could be named after are left out. */
export async function listMachines(files: Files, data: string): Promise<string[]> {
  const names: string[] = [];
  for (const name of await files.list(path.join(data, machinesName))) {
    if (!machineName.safeParse(name).success) continue;
    if (await isMachine(files, data, name)) names.push(name);
  }
  return names;
}

/** A directory without its file is none: somebody came too late who wanted to write there. */
export function isMachine(files: Files, data: string, machine: string): Promise<boolean> {
  return files.exists(path.join(machinePaths(data, machine).directory, machineFileName));
}

/** `null`: there is no such machine here. @throws Problem `bad-argument`, `damaged`. */
export async function readMachineFacts(files: Files, data: string, machine: string): Promise<MachineFacts | null> {
  const file = path.join(machinePaths(data, machine).directory, machineFileName);
  const value = await readJson(files, file);
  if (value === null) return null;
  const parsed = machineSchema.safeParse(value);
  if (!parsed.success) throw damaged(file, complaint(parsed.error));
  return parsed.data;
}

/** Invariants 2 and 3: the writer's hold on a DATA directory. */
export interface DataDirectory {
  readonly path: string;
  /** `null`: new, `create` was not called yet. */
  readonly facts: StoreFacts | null;
  /** Writes `tidemark.json`; once, on first start. */
  create(vault: string): Promise<StoreFacts>;
  /** Makes the machine's directories if missing, then replaces `machine.json`. */
  writeMachine(machine: string, facts: MachineFacts): Promise<void>;
  /** Gives the lock back. Idempotent. */
  close(): Promise<void>;
}

export interface OpenDataOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly path: string;
  readonly identity: LockIdentity;
}

/** Makes the directory if missing and locks it. @throws Problem `locked`, `wrong-version`, `damaged`. */
export async function openDataDirectory(options: OpenDataOptions): Promise<DataDirectory> {
  const { files, clock, path: data, identity } = options;
  await files.makeDirectory(data);
  const lock = await acquireLock(files, clock, data, identity);
  try {
    return new LockedData(files, clock, data, await readStoreFacts(files, data), () => lock.release());
  } catch (error) {
    await lock.release();
    throw error;
  }
}

class LockedData implements DataDirectory {
  readonly path: string;
  facts: StoreFacts | null;
  readonly #files: Files;
  readonly #clock: Clock;
  readonly #release: () => Promise<void>;

  constructor(files: Files, clock: Clock, data: string, facts: StoreFacts | null, release: () => Promise<void>) {
    this.#files = files;
    this.#clock = clock;
    this.path = data;
    this.facts = facts;
    this.#release = release;
  }

  async create(vault: string): Promise<StoreFacts> {
    if (this.facts) throw new Problem('bad-argument', `${this.path} is a store already`);
    const facts = storeSchema.parse({ format: storeFormat, vault, created: this.#clock.wallMs() });
    await this.#files.makeDirectory(path.join(this.path, machinesName));
    await this.#files.replaceFile(path.join(this.path, storeFileName), jsonBytes(facts));
    this.facts = facts;
    return facts;
  }

  async writeMachine(machine: string, facts: MachineFacts): Promise<void> {
    const paths = machinePaths(this.path, machine);
    for (const directory of [paths.directory, paths.segments, paths.index, paths.leaves])
      await this.#files.makeDirectory(directory);
    await this.#files.replaceFile(path.join(paths.directory, machineFileName), jsonBytes(machineSchema.parse(facts)));
  }

  close(): Promise<void> {
    return this.#release();
  }
}

function jsonBytes(value: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
}
