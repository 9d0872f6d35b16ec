/**
 * How a command that needs nothing but a target's directory and its key gets at a point: store, vault, view, image, and the second try by an
 * index of its own when the target's one misleads.
 */
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type { DiskOfPoint, Vault as VaultPlace } from '../cli/roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { PointImage } from '../recovery/point-image.ts';
import type { ReadPool } from '../recovery/read-pool.ts';
import { readStoreFacts } from '../store/machine-directory.ts';
import { MachineView, type DiskAtPoint } from '../store/machine-view.ts';
import { holdPoints } from '../store/points-in-use.ts';
import type { PointsView } from '../store/points-view.ts';
import { Vault } from '../store/vault.ts';
import { readBootId } from './boot-id.ts';
import { RoleBuilder, type Closers, type Parts } from './parts.ts';

/** @throws Problem `not-found` when there is no store, `wrong-version`, `damaged`. */
export async function storeFacts(parts: Parts, data: string): Promise<{ vault: string }> {
  const facts = await readStoreFacts(parts.files, data);
  if (facts) return facts;
  throw new Problem('not-found', `${data} is not the directory of a target`, {
    remedy: "name the target's directory with --data",
  });
}

export async function openVault(parts: Parts, place: VaultPlace): Promise<Vault> {
  const { files, random } = parts;
  const facts = await storeFacts(parts, place.data);
  return Vault.open({ files, random, keyFile: place.vault, expected: facts.vault });
}

export async function openView(
  parts: Parts,
  closers: Closers,
  place: { readonly data: string; readonly machine: string },
  ownIndex = false,
): Promise<MachineView> {
  const { files, clock, random } = parts;
  const { data, machine } = place;
  const scratch = path.join(tmpdir(), `tidemark-index-${random.bytes(8).toString('hex')}`);
  closers.add(() => files.removeTree(scratch));
  const view = await MachineView.open({
    files,
    clock,
    data,
    machine,
    bootId: await readBootId(files),
    scratch,
    ownIndex,
  });
  closers.add(() => view.close());
  return view;
}

/** Whether a rebuilt index may do better: stored bytes seem damaged, or reading the index itself failed in an unforeseen way. */
function mayBeIndex(error: unknown): boolean {
  return !isProblem(error) || error.code === 'damaged' || error.code === 'index-unreadable';
}

/**
 * Reads through the target's index, and where that ends in damage once more through one built from the segments: the index is a cache,
 * what it says wrong must not cost a point.
 */
export async function throughIndex<T>(
  parts: Parts,
  closers: Closers,
  place: { readonly data: string; readonly machine: string },
  read: (view: MachineView) => Promise<T>,
  isGood: (value: T) => boolean = () => true,
): Promise<T> {
  const view = await openView(parts, closers, place);
  try {
    const value = await read(view);
    if (isGood(value) || view.hasOwnIndex) return value;
  } catch (error) {
    if (view.hasOwnIndex || !mayBeIndex(error)) throw error;
  }
  parts
    .loggerOf({ logLevel: 'warn' }, 'recovery')
    .warn({ machine: place.machine }, 'reading failed by the index of the target; trying one built from the segments');
  return read(await openView(parts, closers, place, true));
}

/** Disks that are served for long as of one point. */
export interface ServedDisks extends VaultPlace {
  readonly machine: string;
  readonly point: DiskOfPoint['point'];
  /** By name; undefined: the only one. */
  readonly disks: readonly DiskOfPoint['disk'][];
}

/**
 * Images whose leaves were checked, all by one view and under one hold: their point is kept meanwhile. Where the target's index misleads them, they
 * go on by one built from the segments.
 */
export function openServedImages(
  parts: Parts,
  closers: Closers,
  request: ServedDisks,
  vault: Vault,
  pool: ReadPool,
): Promise<PointImage[]> {
  const { files, clock, random } = parts;
  return throughIndex(parts, closers, request, async (view) => {
    const body = view.choosePoint(request.point);
    const { point } = body;
    const pointsNow = (): Promise<PointsView> => view.pointsNow();
    const hold = await holdPoints({ ...request, files, clock, random, role: 'nbd', points: [point], pointsNow });
    closers.add(() => hold.release());
    let own: Promise<MachineView> | null = null;
    const images: PointImage[] = [];
    for (const name of request.disks) {
      const otherIndex = async (): Promise<DiskAtPoint> => {
        own ??= openView(parts, closers, request, true).catch((error: unknown) => {
          own = null;
          throw error;
        });
        const other = await own;
        // Not chosen again: it may be retired by now, and is in use all the same.
        return other.diskAt(other.disk(name), body, vault);
      };
      const image = new PointImage(await view.diskAt(view.disk(name), body, vault), clock, { pool, otherIndex });
      await image.checkLeaves();
      images.push(image);
    }
    return images;
  });
}

/** Runs `work` and closes what it opened, whatever happens. */
export async function closing<T>(work: (builder: RoleBuilder) => Promise<T>): Promise<T> {
  const builder = new RoleBuilder();
  try {
    return await work(builder);
  } finally {
    await builder.closers.close();
  }
}
