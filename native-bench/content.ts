/**
 * What the kernels are fed with: 2 MiB each of text (the sources and documents of this tree), program code (the runtime's own machine code), a database
 * file (LMDB, of made-up rows), random bytes and zeros. Real files are those of this installation, so ratios differ a little from one to another.
 */
import { open as openDatabase } from 'lmdb';
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemRandom } from '../src/kit/random.ts';
import { MiB } from '../src/kit/sizes.ts';

export const contentNames = ['text', 'program', 'database', 'random', 'zero'] as const;

export type ContentName = (typeof contentNames)[number];

const contentBytes = 2 * MiB;

/** Whatever there is, again and again until it is enough. */
function enough(parts: readonly Buffer[]): Buffer {
  const once = Buffer.concat(parts);
  if (once.byteLength === 0) throw new Error('there is no content to measure with');
  return Buffer.alloc(contentBytes, once);
}

/** Sources and documents beside and below this file's parent; of a compiled tree its compiled sources. */
function text(): Buffer {
  const root = path.join(import.meta.dirname, '..');
  const names = ['src', 'native-bench'].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => /\.(?:ts|js|md)$/.test(name))
      .sort()
      .map((name) => path.join(root, folder, name)),
  );
  return enough(names.map((name) => readFileSync(name)));
}

/** From the middle of the runtime's program file, where its code is. */
function program(): Buffer {
  const file = openSync(process.execPath, 'r');
  try {
    const middle = Math.floor(fstatSync(file).size / 2);
    const bytes = Buffer.alloc(contentBytes);
    return enough([bytes.subarray(0, readSync(file, bytes, 0, contentBytes, middle))]);
  } finally {
    closeSync(file);
  }
}

async function database(): Promise<Buffer> {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-kernels-'));
  try {
    const file = path.join(directory, 'data.mdb');
    const rows = openDatabase({ path: file, encoding: 'json', noSync: true });
    const digits = systemRandom.bytes(16 * 1024);
    await rows.transaction(() => {
      for (let order = 0; order < digits.length; order += 1) {
        const value = (digits[order] ?? 0) * 37;
        const row = {
          order,
          customer: value % 977,
          city: ['Oslo', 'Lima', 'Pune', 'Graz'][value % 4],
          cents: value * 19,
        };
        void rows.put(order, { ...row, note: `delivered after ${value % 30} days, carrier ${value % 7}` });
      }
    });
    await rows.close();
    return enough([await readFile(file)]);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export async function makeContents(): Promise<Readonly<Record<ContentName, Buffer>>> {
  return {
    text: text(),
    program: program(),
    database: await database(),
    random: systemRandom.bytes(contentBytes),
    zero: Buffer.alloc(contentBytes),
  };
}
