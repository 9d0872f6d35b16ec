/** One machine's spool on disk: what was written is read in order; what is torn, missing, foreign or out of its place is found at a start. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { posixFiles } from '../../src/posix/files.ts';
import type { SpoolOwner } from '../../src/process-server/spool-format.ts';
import { layerStartOf, SpoolLog, type LayerStart, type SpoolRoom } from '../../src/process-server/spool-log.ts';
import { recoverSpool } from '../../src/process-server/spool-recovery.ts';
import { encodeFrame, frameType, viewOf } from '../../src/wire/frame.ts';
import { encodePointMessage } from '../../src/wire/point.ts';
import { writeSealedHeader } from '../../src/wire/sealed.ts';
import { MortalFiles } from '../pipeline/mortal-files.ts';
import { runOf } from '../layers.ts';

const seqBase = 2 ** 32;
const zeros = '00'.repeat(32);
const owner: SpoolOwner = {
  machine: 'm1',
  instance: '11'.repeat(16),
  epoch: 1,
  disks: [
    {
      open: { disk: 0, name: 'd0', size: 1_048_576, blockSize: 4096, compression: 'lz4', knownPoint: null },
      diskId: '22'.repeat(16),
      committed: null,
    },
  ],
};

class Room implements SpoolRoom {
  used = 0;
  limit = Infinity;
  fits(bytes: number): boolean {
    return this.used + bytes <= this.limit;
  }
  take(bytes: number): void {
    this.used += bytes;
  }
  give(bytes: number): void {
    this.used -= bytes;
  }
}

let directory = '';
beforeEach(() => {
  directory = path.join(mkdtempSync(path.join(tmpdir(), 'tidemark-spool-')), 'm1');
});
afterEach(() => {
  rmSync(path.dirname(directory), { recursive: true, force: true });
});

const layer = (counter: number): LayerStart =>
  layerStartOf({ disk: 0, seq: seqBase + counter, kind: 'delta', base: null, salt: 'ab'.repeat(32), keyVersion: 1 });

function sealed(counter: number, batch: number, fill = batch): Uint8Array {
  const body = new Uint8Array(700).fill(fill);
  writeSealedHeader(body, 0, { seq: seqBase + counter, batch, count: 1, plainBytes: 4096, digest: new Uint8Array(32) });
  return encodeFrame(frameType.sealed, 0, body);
}

function point(cutTimeMs: number, counters: readonly number[]): Uint8Array {
  const layers = runOf(counters.map((counter) => seqBase + counter));
  const disk = { disk: 0, size: 1_048_576, root: zeros, layers, kind: 'delta' as const, records: 1, payloadBytes: 1 };
  return encodePointMessage({ cutTimeMs, consistency: 'crash', disks: [disk] });
}

function logOf(room: Room, files = posixFiles, recovered?: Awaited<ReturnType<typeof recoverSpool>>): SpoolLog {
  const more = recovered ? { recovered: recovered.log } : {};
  return new SpoolLog({ files, directory, fileBytes: 4000, room, owner: () => owner, spool: '33'.repeat(16), ...more });
}

const memory = (bytes: number): Uint8Array => new Uint8Array(bytes);

/** `layers` layers of four batches, each with its point. Answers the frames with their CYCLEs, as they lie there. */
async function fill(log: SpoolLog, layers: number, first = 1): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  for (let counter = first; counter < first + layers; counter += 1) {
    const start = layer(counter);
    frames.push(start.frame);
    for (let batch = 0; batch < 4; batch += 1) {
      const frame = sealed(counter, batch);
      frames.push(frame);
      expect(await log.append(frame, 4096, start)).not.toBeNull();
    }
    const end = point(counter, [counter]);
    frames.push(end);
    await log.append(end, 0, null);
  }
  return frames;
}

async function readAll(log: SpoolLog): Promise<Buffer[]> {
  const frames: Buffer[] = [];
  while (log.unreadBytes > 0) frames.push(Buffer.from((await log.read(memory)).frame));
  return frames;
}

const hexOf = (frames: readonly Uint8Array[]): string[] => frames.map((frame) => Buffer.from(frame).toString('hex'));
const names = (): string[] => readdirSync(directory).sort();

describe('a log', () => {
  it('gives back what was written, over many files, and removes them as they are answered', async () => {
    const room = new Room();
    const log = logOf(room);
    const frames = await fill(log, 6);
    expect(names().length).toBeGreaterThan(4);
    const read: Buffer[] = [];
    for (let most = names().length; log.unreadBytes > 0;) {
      const entry = await log.read(memory);
      read.push(Buffer.from(entry.frame));
      if (entry.frame[0] === frameType.sealed) expect(entry.layer?.seq).toBe(readSeq(entry.frame));
      log.trim(null);
      await Promise.resolve();
      expect(names().length).toBeLessThanOrEqual(most);
      most = names().length;
    }
    expect(hexOf(read)).toEqual(hexOf(frames));
    await log.close();
    expect(names()).toEqual([]);
    expect(room.used).toBe(0);
  });

  it('gives a file up once, whatever is trimmed meanwhile', async () => {
    const [files, room] = [new MortalFiles(posixFiles), new Room()];
    const log = logOf(room, files);
    let writes = 0;
    const refuse = async (): Promise<void> => {
      // Nothing is on disk, so all that is there may go, at any moment.
      void (async () => {
        for (let turn = 0; turn < 100; turn += 1) log.trim(await Promise.resolve(null));
      })();
      await Promise.reject(new Error('EIO'));
    };
    files.trouble = (operation) => {
      if (operation === 'write') writes += 1;
      return operation === 'write' && writes === 2 ? refuse() : undefined;
    };
    await expect(log.append(sealed(1, 0), 4096, layer(1))).rejects.toThrow('EIO');
    expect(room.used).toBe(0);
    expect(names()).toEqual([]);
    expect(await log.append(sealed(1, 0), 4096, layer(1))).not.toBeNull();
    await log.drop();
    expect(room.used).toBe(0);
  });

  it('reads again from where it is told, with the layers of there', async () => {
    const log = logOf(new Room());
    const frames = await fill(log, 3);
    const places = [];
    while (log.unreadBytes > 0) places.push(await log.read(memory));
    for (const from of [16, 9, 8, 0]) {
      const entry = places[from];
      if (!entry) throw new Error('it was read');
      log.rewind(entry.place, [entry.layer]);
      const again = await log.read(memory);
      expect(again.layer?.seq).toBe(entry.layer?.seq);
      log.rewind(entry.place, [entry.layer]);
      expect(hexOf(await readAll(log))).toEqual(hexOf(frames.slice(from)));
    }
    await log.drop();
  });

  it('has no room: nothing is written, and it goes on when there is', async () => {
    const room = new Room();
    const log = logOf(room);
    const frames = await fill(log, 1);
    room.limit = room.used + 100;
    expect(await log.append(sealed(1, 4), 4096, layer(1))).toBeNull();
    room.limit = Infinity;
    expect(await log.append(sealed(1, 4), 4096, layer(1))).not.toBeNull();
    // The layer goes on behind the point, so its CYCLE is known.
    expect(hexOf(await readAll(log))).toEqual(hexOf([...frames, sealed(1, 4)]));
    await log.drop();
  });

  it.each(['ENOSPC', 'EIO', 'EINTR'])(
    '%s in the middle: it is told, what is there stays, and the next go on behind it',
    async (code) => {
      const files = new MortalFiles(posixFiles);
      const room = new Room();
      const log = logOf(room, files);
      const frames = await fill(log, 1);
      const used = room.used;
      for (const fails of ['write', 'open'] as const) {
        files.trouble = (operation, _path, position) =>
          operation === fails && (fails === 'open' || position > 0)
            ? Promise.reject(Object.assign(new Error(code), { code }))
            : undefined;
        for (let tries = 0; tries < 3; tries += 1)
          await expect(log.append(sealed(2, 0), 4096, layer(2))).rejects.toMatchObject({ code });
      }
      files.trouble = () => undefined;
      expect(room.used).toBe(used);
      frames.push(...(await fill(log, 2, 2)));
      // A start finds the same chain across the files that were given up.
      await log.close();
      const recovered = await recoverSpool(posixFiles, directory, 'm1');
      const again = logOf(new Room(), posixFiles, recovered);
      expect(hexOf(await readAll(again))).toEqual(hexOf(frames));
      await again.drop();
    },
  );

  it('is lost when its files are gone, and says so', async () => {
    const log = logOf(new Room());
    await fill(log, 4);
    rmSync(directory, { recursive: true });
    await expect(readAll(log)).rejects.toMatchObject({ code: 'layer-unknown', retryable: true });
    // What comes then is written, and read; nothing was promised of what is gone.
    expect(await log.append(sealed(9, 0), 4096, layer(9))).not.toBeNull();
    await log.drop();
  });
});

function readSeq(frame: Uint8Array): number {
  return Number(viewOf(frame).getBigUint64(8, true));
}

describe('a start', () => {
  /** A spool of six layers; answers its frames. */
  async function left(): Promise<Uint8Array[]> {
    const log = logOf(new Room());
    const frames = await fill(log, 6);
    await log.close();
    return frames;
  }

  /** What a start makes of it, as frames. */
  async function found(): Promise<string[]> {
    const recovered = await recoverSpool(posixFiles, directory, 'm1');
    if (!recovered) return [];
    const log = logOf(new Room(), posixFiles, recovered);
    const frames = hexOf(await readAll(log));
    await log.close();
    return frames;
  }

  it('finds everything, its owner, and the points that wait', async () => {
    const frames = await left();
    const recovered = await recoverSpool(posixFiles, directory, 'm1');
    expect(recovered?.owner).toEqual(owner);
    expect(recovered?.dropped).toEqual([]);
    expect(recovered?.points.count).toBe(6);
    expect(recovered?.points.oldest?.cutTimeMs).toBe(1);
    expect(recovered?.points.at(3)?.continues).toBe(true);
    expect(await found()).toEqual(hexOf(frames));
  });

  it('goes on writing behind it', async () => {
    const frames = await left();
    const log = logOf(new Room(), posixFiles, await recoverSpool(posixFiles, directory, 'm1'));
    frames.push(...(await fill(log, 2, 7)));
    await log.close();
    expect(await found()).toEqual(hexOf(frames));
  });

  it('torn at any byte: all whole frames before are there, and nothing else', async () => {
    const frames = hexOf(await left());
    const kept = `${directory}-kept`;
    cpSync(directory, kept, { recursive: true });
    const last = names().at(-1) ?? '';
    const size = readFileSync(path.join(directory, last)).byteLength;
    let most = 0;
    for (let bytes = 0; bytes < size; bytes += 53) {
      cpSync(kept, directory, { recursive: true });
      truncateSync(path.join(directory, last), bytes);
      const now = await found();
      expect(now).toEqual(frames.slice(0, now.length));
      expect(now.length).toBeGreaterThanOrEqual(most);
      most = now.length;
    }
    expect(most).toBe(frames.length - 1);
  });

  it('a flipped bit anywhere: what is before it is there; what is behind it is not, nor is it read', async () => {
    const frames = hexOf(await left());
    const kept = `${directory}-kept`;
    cpSync(directory, kept, { recursive: true });
    let lost = 0;
    for (const [at, name] of names().entries()) {
      const whole = readFileSync(path.join(kept, name));
      for (let byte = (at * 29) % 61; byte < whole.byteLength; byte += 61) {
        const bytes = Buffer.from(whole);
        bytes[byte] = (bytes[byte] ?? 0) ^ 4;
        writeFileSync(path.join(directory, name), bytes);
        const recovered = await recoverSpool(posixFiles, directory, 'm1');
        if (!recovered) {
          expect(at).toBe(0);
          lost += 1;
          continue;
        }
        const log = logOf(new Room(), posixFiles, recovered);
        const now: string[] = [];
        // In a batch it shows only when it is read.
        await readAllInto(log, now).catch((error: unknown) => expect(error).toMatchObject({ code: 'layer-unknown' }));
        await log.close();
        expect(now).toEqual(frames.slice(0, now.length));
        expect(now.length).toBeLessThan(frames.length);
        lost += 1;
      }
      writeFileSync(path.join(directory, name), whole);
    }
    expect(lost).toBeGreaterThan(200);
  });

  it('files that are missing, swapped, repeated, of another spool or another machine end it where they stand', async () => {
    const frames = hexOf(await left());
    const all = names();
    const at = (index: number): string => path.join(directory, all[index] ?? '');
    const kept = `${directory}-kept`;
    cpSync(directory, kept, { recursive: true });
    const other = logOf(new Room(), posixFiles);
    const cases: (() => void)[] = [
      () => rmSync(at(2)),
      () => cpSync(path.join(kept, all[3] ?? ''), at(2)),
      () => cpSync(path.join(kept, all[1] ?? ''), at(2)),
      () => cpSync(path.join(kept, all[2] ?? ''), at(3)),
    ];
    await other.close();
    for (const harm of cases) {
      rmSync(directory, { recursive: true });
      cpSync(kept, directory, { recursive: true });
      harm();
      const now = await found();
      expect(now.length).toBeGreaterThan(0);
      expect(now.length).toBeLessThan(frames.length);
      expect(now).toEqual(frames.slice(0, now.length));
    }
    expect(await recoverSpool(posixFiles, kept, 'm2')).toBeNull();
    expect(await recoverSpool(posixFiles, `${directory}-none`, 'm1')).toBeNull();
  });
});

async function readAllInto(log: SpoolLog, into: string[]): Promise<void> {
  while (log.unreadBytes > 0) into.push(Buffer.from((await log.read(memory)).frame).toString('hex'));
}
