/** What the target's directory says once nobody writes it: every point read back and held against the model, every record against its predecessor. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { describeLayers, sameLayers } from '../../src/kernels/layer-run.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { exportRaw } from '../../src/recovery/export.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import type { PointBody } from '../../src/store/points-record.ts';
import { replayAll } from '../../src/store/replay.ts';
import { Vault } from '../../src/store/vault.ts';
import { decodeSealedRows } from '../../src/wire/sealed.ts';
import { runOf } from '../layers.ts';
import { imageContent } from '../recovery/image-content.ts';
import type { Site } from './site.ts';
import { clock, machine } from './surroundings.ts';
import { bootId } from './target-life.ts';

export interface ReadBackOptions {
  /** Whether points may be there that the target calls damaged; all others must read as the model says. */
  readonly mayBeDamaged?: boolean;
  /** Records that may repeat what is there, by order of the target. Key: `disk no/block`. */
  readonly repaired?: ReadonlySet<string>;
  /** Stored bytes were flipped: what the segments hold is not what was written. */
  readonly rotten?: boolean;
}

/** Call while no target runs. Answers the number of points. */
export async function readBack(site: Site, options: ReadBackOptions = {}): Promise<number> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'tidemark-view-'));
  const view = await MachineView.open({ files: posixFiles, clock, data: site.data, machine, bootId, scratch });
  try {
    const { points } = view.points;
    for (const [point, cutTimeMs] of site.acknowledged) {
      if (view.points.point(point)?.cutTimeMs !== cutTimeMs) throw new Error(`acknowledged point ${point} is lost`);
    }
    for (const body of points) {
      const damaged = view.points.stateOf(body.point) === 'damaged';
      if (damaged && options.mayBeDamaged !== true) throw new Error(`point ${body.point} is damaged`);
      if (!damaged) await checkPoint(site, view, body);
    }
    if (options.rotten === true) return points.length;
    checkLayers(points, await readSegments(site, view, options.repaired ?? new Set()));
    return points.length;
  } finally {
    await view.close();
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Every layer that the segments hold is listed by one point, in order, up to the newest one: points and segments tell, no index is asked. */
function checkLayers(points: readonly PointBody[], stored: StoredLayers): void {
  const left = new Map([...stored].map(([no, seqs]) => [no, [...seqs].sort((a, b) => a - b)]));
  for (const { point, disks } of points) {
    for (const { no, layers } of disks) {
      const seqs = left.get(no) ?? [];
      const listed = seqs.splice(0, layers === null ? 0 : seqs.filter((seq) => seq <= layers.last).length);
      if (!sameLayers(runOf(listed), layers))
        throw new Error(`point ${point}, disk ${no}: ${describeLayers(layers)}, stored ${listed.join(', ')}`);
    }
  }
}

async function checkPoint(site: Site, view: MachineView, body: PointBody): Promise<void> {
  const vault = await Vault.open({ files: posixFiles, random: systemRandom, keyFile: site.vaultKey });
  const cut = site.cuts.get(body.cutTimeMs);
  if (!cut) throw new Error(`point ${body.point} is of a cut nobody made`);
  if (body.disks.length !== site.disks.length) throw new Error(`point ${body.point} is half`);
  for (const [index, disk] of site.disks.entries()) {
    const facts = view.disk(disk.name);
    const writes = body.disks.find(({ no }) => no === facts.no)?.writes;
    if (writes !== cut.writes[index])
      throw new Error(`point ${body.point}: disk ${disk.name} is of another cut (${writes}, ${cut.writes.join(', ')})`);
    const image = new PointImage(await view.diskAt(facts, body, vault), clock);
    const expected = disk.at(cut.lives[index] ?? -1, writes ?? 0);
    const found = await contentOf(site, image, body.point === view.points.points.length);
    if (!found.equals(expected))
      throw new Error(`point ${body.point}, ${disk.name}: ${difference(found, expected, image)}`);
  }
}

async function contentOf(site: Site, image: PointImage, exported: boolean): Promise<Buffer> {
  if (exported) {
    const to = site.dir('exported.raw');
    const { signal } = new AbortController();
    const how = { files: posixFiles, clock, to, overwrite: true, leafKeys: [], signal, progress: () => undefined };
    await exportRaw(image, how);
    return readFileSync(to);
  }
  return imageContent(image);
}

function difference(found: Buffer, expected: Buffer, { geometry }: PointImage): string {
  if (found.byteLength !== expected.byteLength) return `${found.byteLength} bytes, not ${expected.byteLength}`;
  const at = found.findIndex((byte, index) => byte !== expected[index]);
  return `differs at ${at} (block ${Math.floor(at / geometry.blockSize)}, page ${Math.floor((at % geometry.blockSize) / geometry.pageSize)})`;
}

/** Disk number → seqs of the layers that have a batch and were not dropped. */
type StoredLayers = ReadonlyMap<number, ReadonlySet<number>>;

/** A record whose leaf is that of the record before it says nothing new: what was durable was sent again. */
async function readSegments(site: Site, view: MachineView, repaired: ReadonlySet<string>): Promise<StoredLayers> {
  const newest = new Map<string, string>();
  const stored = new Map(view.facts.disks.map(({ no }) => [no, new Set<number>()]));
  const outcome = await replayAll(
    {
      files: posixFiles,
      directory: `${site.store}/segments`,
      machineId: Buffer.from(view.facts.id, 'hex'),
      extents: view.points.extents,
      removed: view.points.removed,
      check: 'digests',
    },
    (entry) => {
      if (entry.type === 'drop') stored.get(entry.diskNo)?.delete(entry.seq);
      if (entry.type !== 'batch') return;
      stored.get(entry.diskNo)?.add(entry.header.seq);
      const bounds = { blockCount: 2 ** 32 - 1, pageSize: site.blockSize / 16 };
      for (const row of decodeSealedRows(entry.rows, bounds, entry.bodyLength)) {
        const key = `${entry.diskNo}/${row.block}`;
        const leaf = Buffer.from(row.leaf).toString('hex');
        if (newest.get(key) === leaf && !repaired.has(key)) throw new Error(`block ${key} was stored twice`);
        newest.set(key, leaf);
      }
    },
  );
  if (outcome.damage.length > 0) throw new Error(`damage in the segments: ${JSON.stringify(outcome.damage)}`);
  return stored;
}
