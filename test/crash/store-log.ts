/** Segments and `points.log` of a machine on a simulated file system, driven one operation at a time, and what a crash of them may leave. */
import { systemClock } from '../../src/kit/clock.ts';
import { PointsLog, readPoints } from '../../src/store/points-log.ts';
import type { PointBody, PointsEntry } from '../../src/store/points-record.ts';
import type { PointsView } from '../../src/store/points-view.ts';
import { segmentLimits, type SegmentLimits, type SegmentLog } from '../../src/store/segment-log.ts';
import { openSegmentLog } from '../../src/store/segment-recovery.ts';
import { SimulatedFiles } from '../simulated-files.ts';
import { directory, layerOf, machineId, nameOf, nameOfBatch, readAll, sealedBody } from '../store/segment-fixture.ts';
import { runOf } from '../layers.ts';

const machineDirectory = '/data/machines/m';
const pointsPath = `${machineDirectory}/points.log`;
const diskNo = 0;
/** A segment takes a handful of batches, a group two. */
const tinyLimits: SegmentLimits = { ...segmentLimits, segmentBytesMax: 1600, groupBytesMax: 700 };

/** What a start after a crash is judged by. */
export interface StoreModel {
  /** Entries of the segments: appended, and of these acknowledged. */
  readonly issued: ReadonlySet<string>;
  readonly acknowledged: readonly string[];
  /** Records of `points.log`, in order; those from `acknowledgedRecords` on were not acknowledged. */
  readonly records: readonly string[];
  readonly acknowledgedRecords: number;
}

export interface OpenStore {
  readonly log: SegmentLog;
  readonly points: PointsLog;
  readonly seen: readonly string[];
}

/** As a target opens a machine: points first, then the segments they rely on. @throws when anything is called damaged. */
async function openStore(files: SimulatedFiles): Promise<OpenStore> {
  const points = await PointsLog.open({ files, path: pointsPath, machineId });
  const seen: string[] = [];
  const opened = await openSegmentLog(
    {
      files,
      clock: systemClock,
      directory,
      machineId,
      limits: tinyLimits,
      extents: points.view.extents,
      removed: points.view.removed,
      check: 'digests',
    },
    (entry) => void seen.push(nameOf(entry)),
  );
  if (opened.outcome.damage.length > 0) throw new Error(`damage: ${JSON.stringify(opened.outcome.damage)}`);
  return { log: opened.log, points, seen };
}

export class StoreRun {
  files = new SimulatedFiles([directory]);
  readonly #issued = new Set<string>();
  readonly #acknowledged: string[] = [];
  readonly #records: string[] = [];
  #acknowledgedRecords = 0;
  #open: OpenStore | null = null;
  #seq = 0;
  #batch = 0;
  #point = 0;
  #epoch = 0;
  #pendingLayers: number[] = [];

  model(): StoreModel {
    return {
      issued: new Set(this.#issued),
      acknowledged: [...this.#acknowledged],
      records: [...this.#records],
      acknowledgedRecords: this.#acknowledgedRecords,
    };
  }

  async open(): Promise<void> {
    this.#open = await openStore(this.files);
    // Those that were not acknowledged are there or are not, from now on for good.
    this.#records.length = recordsOf(this.#open.points.view).length;
    this.#acknowledgedRecords = this.#records.length;
    this.#point = this.#open.points.view.points.length;
    for (const name of this.#open.seen) if (!this.#acknowledged.includes(name)) this.#acknowledged.push(name);
    this.#batch = 0;
  }

  async layer(): Promise<void> {
    this.#seq += 1;
    this.#batch = 0;
    this.#pendingLayers.push(this.#seq);
    await this.#append({ type: 'layer', diskNo, layer: layerOf(this.#seq) });
  }

  async batches(count: number, payloadBytes = 100): Promise<void> {
    if (this.#batch === 0) await this.layer();
    const appended: Promise<void>[] = [];
    for (let each = 0; each < count; each += 1) {
      const body = sealedBody(this.#seq, this.#batch, payloadBytes);
      this.#batch += 1;
      appended.push(this.#append({ type: 'batch', diskNo, body }));
    }
    await Promise.all(appended);
  }

  async drop(): Promise<void> {
    if (this.#batch === 0) await this.layer();
    this.#batch = 0;
    this.#pendingLayers = this.#pendingLayers.filter((seq) => seq !== this.#seq);
    await this.#append({ type: 'drop', diskNo, seq: this.#seq });
  }

  async point(): Promise<void> {
    if (this.#epoch === 0) await this.epoch();
    const { log, points } = this.#opened;
    const disk = { no: 0, size: 1 << 20, blockSize: 65_536, root: 'ab'.repeat(32), kind: 'delta' } as const;
    const layers = runOf(this.#pendingLayers.map((seq) => 2 ** 32 * this.#epoch + seq));
    const body: PointBody = {
      point: this.#point + 1,
      cutTimeMs: 1,
      committedMs: 2,
      consistency: 'crash',
      epoch: this.#epoch,
      disks: [{ ...disk, layers, records: 1, payloadBytes: 10 }],
      extents: log.extentsSince(points.view.mark),
    };
    await this.#record({ type: 'point', body });
    this.#point += 1;
    this.#pendingLayers = [];
    this.#batch = 0;
  }

  async gap(): Promise<void> {
    await this.#record({ type: 'gap', body: { atMs: 5, points: 1, reason: 'drain', detail: 'given up' } });
  }

  async epoch(): Promise<void> {
    this.#epoch += 1;
    await this.#record({ type: 'epoch', body: { epoch: this.#epoch, instance: 'aa', atMs: 1 } });
  }

  async reopen(): Promise<void> {
    const { log, points } = this.#opened;
    await log.close();
    await points.close();
    await this.open();
  }

  async killAndReopen(): Promise<void> {
    this.files = this.files.kill();
    await this.open();
  }

  /** Killed with a group on its way. */
  async killedMidway(): Promise<void> {
    void this.batches(2).catch(() => undefined);
    for (let turn = 0; turn < 8; turn += 1) await Promise.resolve();
    await this.killAndReopen();
  }

  get #opened(): OpenStore {
    if (!this.#open) throw new Error('the store is open');
    return this.#open;
  }

  async #append(entry: Parameters<SegmentLog['append']>[0]): Promise<void> {
    const { files } = this;
    const { position, durable } = this.#opened.log.append(entry);
    const at = `${position.segment}:${position.offset} ${diskNo}`;
    const name =
      entry.type === 'layer'
        ? `${at} layer ${entry.layer.seq}`
        : entry.type === 'drop'
          ? `${at} drop ${entry.seq}`
          : nameOfBatch(position, diskNo, entry.body);
    this.#issued.add(name);
    await durable;
    if (files === this.files) this.#acknowledged.push(name);
  }

  async #record(entry: PointsEntry): Promise<void> {
    this.#records.push(recordName(entry));
    await this.#opened.points.append(entry);
    this.#acknowledgedRecords = this.#records.length;
  }
}

function recordName(entry: PointsEntry): string {
  if (entry.type !== 'point') return entry.type;
  const { point, disks, extents } = entry.body;
  return `point ${point} ${JSON.stringify([disks[0]?.layers, extents])}`;
}

/** Points and gaps have no common order in a view: points first. */
function recordsOf(view: PointsView): string[] {
  const epochs = Array.from({ length: view.epoch?.epoch ?? 0 }, () => 'epoch');
  return [
    ...epochs,
    ...view.points.map((body) => recordName({ type: 'point', body })),
    ...view.gaps.map((body) => recordName({ type: 'gap', body })),
  ];
}

/** C1, C2, C10: what was acknowledged is there, what is there was asked for, and no layer has a hole. */
export async function judgeStore(files: SimulatedFiles, model: StoreModel): Promise<void> {
  const before = await openStore(files);
  expectThere(before, model);
  // The next power failure takes back nothing of what this start has shown, and the log goes on.
  const more = sealedBody(9999, 0);
  const begun = before.log.append({ type: 'layer', diskNo, layer: layerOf(9999) });
  const { position, durable } = before.log.append({ type: 'batch', diskNo, body: more });
  await Promise.all([begun.durable, durable]);
  const { durableEnd } = before.log;
  const lost = files.afterPowerLoss(files.dice);
  const { view, tail } = await readPoints({ files: lost, path: pointsPath, machineId });
  if (tail !== 'none') throw new Error(`points.log ends ${tail} after its repair`);
  const after = await readAll(lost, view.extents);
  for (const name of [...before.seen, nameOfBatch(position, diskNo, more)])
    if (!after.seen.includes(name))
      throw new Error(`${name} was shown and is lost (end ${JSON.stringify(durableEnd)})`);
  if (JSON.stringify(recordsOf(view)) !== JSON.stringify(recordsOf(before.points.view)))
    throw new Error('records were shown and are lost');
}

function expectThere({ points, seen }: OpenStore, model: StoreModel): void {
  const found = recordsOf(points.view);
  const allowed = [model.records.slice(0, model.acknowledgedRecords), model.records];
  const sorted = (names: readonly string[]): string => [...names].sort().join('\n');
  if (!allowed.some((each) => sorted(each) === sorted(found)))
    throw new Error(`points.log holds ${JSON.stringify(found)}, not ${JSON.stringify(allowed)}`);
  for (const name of model.acknowledged)
    if (!seen.includes(name)) throw new Error(`${name} was acknowledged and is lost`);
  const next = new Map<string, number>();
  for (const name of seen) {
    // A judge's own batch of an earlier start.
    if (!model.issued.has(name) && !name.includes('9999')) throw new Error(`${name} was never appended`);
    const match = /batch (\d+)\/(\d+)/.exec(name);
    if (match?.[1] === undefined) continue;
    if (Number(match[2]) !== (next.get(match[1]) ?? 0)) throw new Error(`${name} leaves a hole`);
    next.set(match[1], Number(match[2]) + 1);
  }
}
