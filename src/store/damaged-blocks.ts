/**
 * Which of the blocks that were found damaged still are: the one rule for repair, proofs and openings. A block found damaged at a point is replaced
 * once its newest record takes no page from a layer of that point or one before it. Pure, over an index.
 */
import type { IndexEntry } from './index-codec.ts';
import type { RecordLookup } from './index-reader.ts';
import { maxSeqAt } from './point-layers.ts';
import type { PointsView } from './points-view.ts';

/** Whether the block, as of this record, takes pages from a layer up to `seq`. Without a record nothing replaced it. */
export function leansOn(entry: IndexEntry | undefined, seq: number): boolean {
  if (!entry || entry.seq <= seq) return true;
  return entry.pages?.some((page) => page !== null && page <= seq) ?? false;
}

/** Blocks found damaged at some point that the newest records have not replaced, each once. */
export function unrepairedBlocks(index: RecordLookup, view: PointsView, diskNo: number): number[] {
  // Each with the highest seq of the last point: who has replaced it as of that one has replaced it as of the others.
  const found = new Map<number, number>();
  for (const [point, disks] of view.damaged) {
    const seq = maxSeqAt(view, diskNo, point);
    for (const block of disks.get(diskNo) ?? []) found.set(block, Math.max(seq, found.get(block) ?? 0));
  }
  const unrepaired = [...found].filter(([block, seq]) =>
    leansOn(index.lookup(diskNo, block, Number.MAX_SAFE_INTEGER), seq),
  );
  return unrepaired.map(([block]) => block);
}

interface DiskDamage {
  /** What a point took over last: likely the next one took it over as well. */
  lead: number | null;
  /** Those that nothing has replaced so far. `upTo`: damaged as of this seq; `whole`: the version that was read since then, and was not. */
  readonly blocks: Map<number, { upTo: number; whole: number }>;
}

/**
 * What points took over of damage found at points before them, for who goes through the points in rising order. Each version of a damaged block is judged
 * once, whatever the number of points that read it, and a block that was replaced is not looked up any more; so the points cost about a look-up each.
 */
export class DamageTakenOver {
  readonly #index: RecordLookup;
  readonly #view: PointsView;
  readonly #disks = new Map<number, DiskDamage>();
  /** Damage found at points below is in `#disks`. */
  #point = 1;
  /** So many of the view's changes are. */
  #changes = 0;

  constructor(index: RecordLookup, view: PointsView) {
    this.#index = index;
    this.#view = view;
  }

  /** Whether nothing was found out about the points before since `goTo`. */
  get isCurrent(): boolean {
    const { damageChanges } = this.#view;
    for (let at = this.#changes; at < damageChanges.length; at += 1)
      if ((damageChanges[at] ?? 0) < this.#point) return false;
    return true;
  }

  /** Not below the one before. Begins anew where something was found out about those passed. */
  goTo(point: number): void {
    if (!this.isCurrent) {
      this.#disks.clear();
      this.#point = 1;
    }
    this.#changes = this.#view.damageChanges.length;
    for (; this.#point < point; this.#point += 1) this.#add(this.#point);
  }

  #add(point: number): void {
    for (const [diskNo, blocks] of this.#view.damaged.get(point) ?? []) {
      const disk = this.#disks.get(diskNo) ?? {
        lead: null,
        blocks: new Map<number, { upTo: number; whole: number }>(),
      };
      this.#disks.set(diskNo, disk);
      const upTo = maxSeqAt(this.#view, diskNo, point);
      for (const block of blocks) disk.blocks.set(block, { upTo, whole: 0 });
    }
  }

  /**
   * One block of the disk that is damaged because it was, or has pages that were, before; null: none is.
   * @param isDamaged reads the block as of the point `goTo` named: some of its pages may be as they were, and reading and the leaf decide.
   */
  async first(diskNo: number, isDamaged: (block: number) => Promise<boolean>): Promise<number | null> {
    const disk = this.#disks.get(diskNo);
    if (!disk) return null;
    const maxSeq = maxSeqAt(this.#view, diskNo, this.#point);
    const partly: { readonly block: number; readonly seq: number }[] = [];
    for (const block of leadFirst(disk)) {
      const known = disk.blocks.get(block);
      if (!known) continue;
      const entry = this.#index.lookup(diskNo, block, maxSeq);
      // Nothing was written to it since: as damaged here as it was there, whatever a read says (the index may lack records).
      if (!entry || entry.seq <= known.upTo) {
        disk.lead = block;
        return block;
      }
      // A page that is zeros may be one whose record the index lost.
      if (!(entry.pages?.some((page) => page === null || page <= known.upTo) ?? false)) disk.blocks.delete(block);
      else if (entry.seq !== known.whole) partly.push({ block, seq: entry.seq });
    }
    for (const { block, seq } of partly) {
      if (await isDamaged(block)) {
        disk.blocks.set(block, { upTo: maxSeq, whole: 0 });
        disk.lead = block;
        return block;
      }
      // Nothing comes after it that could be another one.
      if (this.#index.lookup(diskNo, block, Number.MAX_SAFE_INTEGER)?.seq === seq) disk.blocks.delete(block);
      else disk.blocks.set(block, { upTo: disk.blocks.get(block)?.upTo ?? 0, whole: seq });
    }
    return null;
  }
}

function* leadFirst({ lead, blocks }: DiskDamage): Generator<number> {
  if (lead !== null && blocks.has(lead)) yield lead;
  for (const block of blocks.keys()) if (block !== lead) yield block;
}
