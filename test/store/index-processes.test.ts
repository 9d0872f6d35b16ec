/** The index while its writer is another process: killed at any instant, or read beside. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { IndexReader } from '../../src/store/index-reader.ts';
import { RecordIndex } from '../../src/store/record-index.ts';
import { batchAt, batchesPerLayer, recordsPerBatch, seqOfBatch } from './index-writer.ts';

const files = posixFiles;
let directory = '';
const children: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'tidemark-index-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  }
  rmSync(directory, { recursive: true });
});

const open = (): Promise<RecordIndex> => RecordIndex.open({ files, directory, bootId: 'boot' });

function startWriter(): { child: ChildProcess; next: () => Promise<number> } {
  const script = path.join(import.meta.dirname, 'index-writer.ts');
  const child = spawn(process.execPath, [script, 'write', directory], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  let text = '';
  const next = async (): Promise<number> => {
    const [chunk] = (await once(child.stdout, 'data')) as [Buffer];
    text += chunk.toString();
    return Number(text.trim().split('\n').at(-1));
  };
  return { child, next };
}

/** What must be there, and nothing more, when `count` batches are applied. */
function checkContents(reader: IndexReader, count: number): void {
  const layers = Math.ceil(count / batchesPerLayer);
  const seqs = [...reader.layersOf(0)];
  expect(seqs.length).toBeGreaterThanOrEqual(layers);
  expect(seqs.length).toBeLessThanOrEqual(layers + 1);
  for (let number = 0; number < count; number += 1) {
    for (const { block } of batchAt(number).rows) {
      const entry = reader.get(0, block, seqOfBatch(number));
      if (entry?.nonce !== number) throw new Error(`batch ${number} is applied, its block ${block} is not there`);
    }
  }
  const newest = [...reader.batchesOf(0, seqOfBatch(count - 1))];
  expect(newest.length).toBe(((count - 1) % batchesPerLayer) + 1);
  expect(newest.at(-1)?.blocks.length).toBe(recordsPerBatch);
  for (const { block } of batchAt(count).rows) expect(reader.get(0, block, seqOfBatch(count))).toBeUndefined();
}

describe('record index and other processes', () => {
  it('keeps records and position consistent when its writer is killed, several times over', async () => {
    let last = 0;
    for (let round = 0; round < 4; round += 1) {
      const { child, next } = startWriter();
      const printed = await next();
      await systemClock.sleep(7 * round);
      child.kill('SIGKILL');
      await once(child, 'exit');
      const index = await open();
      const { segment, offset } = index.position;
      expect(segment).toBe(1);
      expect(offset).toBeGreaterThanOrEqual(printed);
      expect(offset).toBeGreaterThan(last);
      checkContents(await index.reader(), offset);
      await index.close(false);
      last = offset;
    }
  });

  it('is read while another process writes', async () => {
    const { child, next } = startWriter();
    await next();
    const reader = await IndexReader.openReadOnly({ files, directory, bootId: 'boot' });
    if (!reader) throw new Error('there is an index to read');
    const seen: number[] = [];
    for (let round = 0; round < 3; round += 1) {
      const printed = await next();
      // Let the next read take a new snapshot.
      await systemClock.sleep(5);
      const { offset } = reader.position;
      expect(offset).toBeGreaterThanOrEqual(printed);
      const number = offset - 1;
      const first = batchAt(number).rows[0];
      expect(reader.lookup(0, first?.block ?? -1, seqOfBatch(number))?.nonce).toBe(number);
      seen.push(offset);
    }
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => a - b));
    child.kill('SIGKILL');
    await once(child, 'exit');
    await reader.close();
  });

  it('is not there for a reader where there is none', async () => {
    expect(await IndexReader.openReadOnly({ files, directory, bootId: 'boot' })).toBeNull();
    expect(existsSync(path.join(directory, 'data.mdb'))).toBe(false);
  });
});
