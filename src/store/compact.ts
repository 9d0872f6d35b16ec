/**
 * Compaction: copies the live records of a segment, sealed as they are, to the end of the log (MOVED), and lets the segment go.
 *
 * Invariants:
 *  1. Order: MOVED durable → the index names the new places → REMOVED durable in `points.log` → the file is unlinked, some time later. Killed between any
 *     two, the next opening replays the copies, or unlinks what REMOVED names; what was copied twice is dead once.
 *  2. Only a segment wholly below what settled points rely on: every layer that lies there is listed or dropped, and the log's end is never among them. One
 *     that holds a batch of a layer no point lists yet (its disk was not part of the newest points) waits.
 *  3. Every byte is checked before it is copied, as a verification would (header, check, digest, chain): a copy carries a digest of its own, and must
 *     not make damage look whole. A segment with damage stays; what lies in it is told. One that the medium does not give back stays likewise: a read
 *     that was refused proves nothing about what lies there, and keeps no other segment from being compacted.
 *  4. What is not a record and still says something goes along: LAYER bodies of layers that live on, and DROPs while there are older segments that may
 *     hold what they drop.
 *  5. Without keys. Memory: one entry read, one being gathered.
 */
import type { Files } from '../posix/files.ts';
import { limits } from '../limits.ts';
import { isProblem } from '../kit/problem.ts';
import { decodeSealedRows, sealedRowBytes } from '../wire/sealed.ts';
import type { FoldPace, LiveAccount } from './fold.ts';
import { batchKey } from './index-codec.ts';
import type { IndexChange } from './index-pages.ts';
import type { IndexReader } from './index-reader.ts';
import type { MachineLog } from './machine-log.ts';
import { isMediumError } from './medium-error.ts';
import type { PointsView } from './points-view.ts';
import { encodeLayerBody, entryHeaderBytes, layerBodyBytes } from './segment-format.ts';
import { decodeMoved, encodeMoved, movedRowBytes, type MovedRow, type RowToMove } from './segment-moved.ts';
import { surveySegments } from './segment-survey.ts';
import { walkSegment, type Damage, type WalkedEntry } from './segment-walk.ts';

export interface CompactParts {
  readonly files: Files;
  /** The machine's `segments` directory. */
  readonly directory: string;
  /** 16 bytes. */
  readonly machineId: Uint8Array;
  readonly log: MachineLog;
  readonly points: PointsView;
  readonly disks: readonly { readonly no: number; readonly blockSize: number }[];
}

export type Compacted =
  /** All that is live is elsewhere, durably: REMOVED may be written. `batches`: what leaves the index behind it. */
  | { readonly kind: 'moved'; readonly batches: readonly IndexChange[]; readonly bytes: number }
  /** Invariant 2: not yet. */
  | { readonly kind: 'unlisted' }
  | { readonly kind: 'damaged'; readonly damage: readonly Damage[] }
  /** Not all of it can be read now; with what the system said. */
  | { readonly kind: 'unreadable'; readonly error: Error }
  | { readonly kind: 'stopped' };

/**
 * Copies what lives in the segment. @param lowest there is no older segment.
 * @throws Problem `full`, `store-failed`, `index-failed`; what reading throws: nothing is lost, some of it is there twice.
 */
export async function moveLive(
  parts: CompactParts,
  segment: number,
  account: LiveAccount,
  lowest: boolean,
  pace: FoldPace,
): Promise<Compacted> {
  const { log } = parts;
  let reached: Reached = { damage: [], refusal: null };
  const mover = new Mover(parts, await log.index.reader(), segment, account);
  for await (const entry of entriesOf(parts, segment, (end) => (reached = end))) {
    if (!mover.take(entry)) return { kind: 'unlisted' };
    const written = await mover.write(limits.store.movedBytes);
    if (!(await pace.step(entry.bytes + written))) return { kind: 'stopped' };
  }
  const { damage, refusal } = asReached(reached);
  if (refusal) return { kind: 'unreadable', error: refusal };
  // Without anything live in it, and nothing older that a DROP in it could be about, damage hurts nobody any more.
  if (damage.length > 0 && !(lowest && mover.live === 0 && !account.segments.has(segment)))
    return { kind: 'damaged', damage };
  await mover.write(0);
  await mover.carry(lowest);
  await log.index.flushed();
  return { kind: 'moved', batches: mover.batches, bytes: mover.moved };
}

/** How the way through a segment ended. */
interface Reached {
  readonly damage: readonly Damage[];
  /** What the system said where the medium gave nothing back. */
  readonly refusal: Error | null;
}

/** Only what reading throws is a refusal: what the caller throws between two entries does not come by here. */
async function* entriesOf(
  { files, directory, machineId, points: { extents, removed } }: CompactParts,
  segment: number,
  ended: (reached: Reached) => void,
): AsyncGenerator<WalkedEntry> {
  const around = { files, directory, machineId, extents, removed, from: segment, to: segment };
  const options = { files, machineId, whole: true, readBytes: limits.store.replayReadBytes, tailBytes: 0 };
  try {
    for (const surveyed of (await surveySegments(around)).segments)
      yield* walkSegment(options, surveyed, ({ damage }) => ended({ damage, refusal: null }));
  } catch (error) {
    if (!(error instanceof Error) || !isMediumError(error)) throw error;
    ended({ damage: [], refusal: error });
  }
}

/** TypeScript does not see that a callback assigned it. */
function asReached(reached: Reached): Reached {
  return reached;
}

interface Gathered {
  rows: RowToMove[];
  bytes: number;
}

interface LayerHere {
  readonly body: Uint8Array;
  /** It went along with a row. */
  carried: boolean;
}

/** What a row takes at most: itself, its layer's body, its payload. */
function bytesOf({ storedLength }: { readonly storedLength: number }): number {
  return movedRowBytes + layerBodyBytes + storedLength;
}

/** The first rows, up to so many bytes, at least one. */
function takeUpTo(gathered: Gathered, bytesMax: number): RowToMove[] {
  let count = 0;
  let bytes = 0;
  for (const { row } of gathered.rows) {
    if (count > 0 && bytes + bytesOf(row) > bytesMax) break;
    count += 1;
    bytes += bytesOf(row);
  }
  gathered.bytes -= bytes;
  return gathered.rows.splice(0, count);
}

/** What one segment holds and has to go elsewhere. */
class Mover {
  /** Rows of batches in the index, which go with the segment. */
  readonly batches: IndexChange[] = [];
  live = 0;
  moved = 0;
  readonly #parts: CompactParts;
  readonly #index: IndexReader;
  readonly #segment: number;
  readonly #account: LiveAccount;
  readonly #gathered = new Map<number, Gathered>();
  /** LAYER bodies that lie here and are needed: disk number → seq. */
  readonly #layers = new Map<number, Map<number, LayerHere>>();
  readonly #drops: { readonly diskNo: number; readonly seq: number }[] = [];

  constructor(parts: CompactParts, index: IndexReader, segment: number, account: LiveAccount) {
    this.#parts = parts;
    this.#index = index;
    this.#segment = segment;
    this.#account = account;
  }

  /** Takes over what is needed of the entry, whose views it copies. False: the segment can not go yet. */
  take({ diskNo, content, position }: WalkedEntry): boolean {
    switch (content.type) {
      case 'footer':
        return true;
      case 'layer':
        this.#takeLayer(diskNo, content.layer.seq, encodeLayerBody(content.layer));
        return true;
      case 'drop':
        this.#drops.push({ diskNo, seq: content.seq });
        return true;
      case 'moved': {
        const { body } = content;
        const moved = body && decodeMoved(body, this.#pageSize(diskNo), body.byteLength);
        if (!moved) return true;
        for (const [seq, layer] of moved.layers) this.#takeLayer(diskNo, seq, layer);
        for (const row of moved.rows) this.#takeRow(diskNo, row, body, position.offset);
        return true;
      }
      case 'batch': {
        const { header, body } = content;
        if (header.seq > this.#parts.points.listedSeq(diskNo)) return false;
        this.batches.push({ store: 'batches', key: batchKey(diskNo, header.seq, header.batch) });
        for (const row of body ? rowsOf(body, this.#pageSize(diskNo)) : [])
          this.#takeRow(diskNo, { ...row, seq: header.seq }, body ?? new Uint8Array(0), position.offset);
        return true;
      }
    }
  }

  /** Appends what was gathered of each disk that has more than `above` bytes; resolves when it is durable and indexed. */
  async write(above: number): Promise<number> {
    let written = 0;
    for (const [diskNo, gathered] of this.#gathered) {
      while (gathered.bytes > above && gathered.rows.length > 0) {
        const rows = takeUpTo(gathered, limits.store.movedBytes);
        const seqs = new Set(rows.map(({ row }) => row.seq));
        const layers = [...seqs].map((seq) => this.#layerOf(diskNo, seq));
        written += await this.#append(diskNo, layers, rows);
        for (const seq of seqs) this.#carried(diskNo, seq);
      }
    }
    return written;
  }

  /** Invariant 4. */
  async carry(lowest: boolean): Promise<void> {
    for (const [diskNo, layers] of this.#layers) {
      const bodies = [...layers.values()].filter(({ carried }) => !carried).map(({ body }) => body);
      for (let from = 0; from < bodies.length; from += limits.store.indexStepEntries)
        await this.#append(diskNo, bodies.slice(from, from + limits.store.indexStepEntries), []);
    }
    if (!lowest) for (const { diskNo, seq } of this.#drops) await this.#parts.log.appendDrop(diskNo, seq);
  }

  async #append(diskNo: number, layers: readonly Uint8Array[], rows: readonly RowToMove[]): Promise<number> {
    const body = encodeMoved(layers, rows);
    const moved = decodeMoved(body, this.#pageSize(diskNo), body.byteLength);
    if (!moved) throw new Error(`what was gathered of segment ${this.#segment} can not be read again`);
    const into = await this.#parts.log.appendMoved(diskNo, moved, body);
    const { segments } = this.#account;
    for (const { row } of rows) segments.set(into, (segments.get(into) ?? 0) + sealedRowBytes + row.storedLength);
    this.moved += body.byteLength;
    return body.byteLength;
  }

  #takeLayer(diskNo: number, seq: number, body: Uint8Array): void {
    const known = this.#account.layers.get(diskNo);
    if (known && seq <= known.listed && !known.live.has(seq)) return;
    const layers = this.#layers.get(diskNo) ?? new Map<number, LayerHere>();
    this.#layers.set(diskNo, layers.set(seq, { body, carried: false }));
  }

  #carried(diskNo: number, seq: number): void {
    const layer = this.#layers.get(diskNo)?.get(seq);
    if (layer) layer.carried = true;
  }

  /** Of a record that the index finds here. */
  #takeRow(diskNo: number, row: MovedRow, body: Uint8Array, entryOffset: number): void {
    const at = this.#index.get(diskNo, row.block, row.seq);
    if (at?.segment !== this.#segment || at.payloadOffset !== entryOffset + entryHeaderBytes + row.payloadOffset)
      return;
    this.live += 1;
    const { payloadOffset: from, ...rest } = row;
    const gathered = this.#gathered.get(diskNo) ?? { rows: [], bytes: 0 };
    gathered.rows.push({
      row: { ...rest, leaf: row.leaf.slice(), tag: row.tag.slice() },
      payload: body.slice(from, from + row.storedLength),
    });
    gathered.bytes += bytesOf(row);
    this.#gathered.set(diskNo, gathered);
  }

  #layerOf(diskNo: number, seq: number): Uint8Array {
    const body = this.#layers.get(diskNo)?.get(seq)?.body ?? this.#index.layer(diskNo, seq);
    if (!body) throw new Error(`layer ${seq} of disk ${diskNo} has records and is not in the index`);
    return body;
  }

  #pageSize(diskNo: number): number {
    const disk = this.#parts.disks.find(({ no }) => no === diskNo);
    return (disk?.blockSize ?? limits.disk.blockBytesMax) / limits.disk.pagesPerBlock;
  }
}

/** The rows of a batch whose digest fits: one that makes no sense all the same was refused when it came, so the index has none of it. */
function rowsOf(body: Uint8Array, pageSize: number): ReturnType<typeof decodeSealedRows> {
  try {
    return decodeSealedRows(body, { blockCount: limits.disk.blockCountMax, pageSize });
  } catch (error) {
    if (isProblem(error)) return [];
    throw error;
  }
}
