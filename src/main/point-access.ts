/**
 * How a command that needs nothing but a target's directory and its key gets at a point: store, vault, view, image, and the second try by an
 * index of its own when the target's one misleads.
 */
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import type { DiskOfPoint, Vault as VaultPlace } from '../cli/roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { PointImage, type PointImageOptions } from '../recovery/point-image.ts';
import type { ReadPool } from '../recovery/read-pool.ts';
import { readStoreFacts } from '../store/machine-directory.ts';
import { MachineView, type DiskAtPoint } from '../store/machine-view.ts';
import { holdPoints } from '../store/points-in-use.ts';
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

/** The image's leaves were checked against the point's root. */
async function openImage(
  view: MachineView,
  vault: Vault,
  parts: Parts,
  request: DiskOfPoint,
  options: PointImageOptions = {},
): Promise<PointImage> {
  const at = await view.diskAt(view.disk(request.disk), view.choosePoint(request.point), vault);
  const image = new PointImage(at, parts.clock, options);
  await image.checkLeaves();
  return image;
}

/** An image that is served for long, whose point is kept meanwhile: where the target's index misleads it, it goes on by one built from the segments. */
export function openServedImage(
  parts: Parts,
  closers: Closers,
  request: DiskOfPoint & VaultPlace,
  vault: Vault,
  pool: ReadPool,
): Promise<PointImage> {
  const { files, clock, random } = parts;
  return throughIndex(parts, closers, request, async (view) => {
    const { point } = view.choosePoint(request.point);
    const hold = await holdPoints({ ...request, files, clock, random, role: 'nbd', points: [point] });
    closers.add(() => hold.release());
    const otherIndex = async (): Promise<DiskAtPoint> => {
      const own = await openView(parts, closers, request, true);
      return own.diskAt(own.disk(request.disk), own.choosePoint(point), vault);
    };
    return openImage(view, vault, parts, { ...request, point }, { pool, otherIndex });
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
