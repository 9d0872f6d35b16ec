/**
 * The overlay loses power at every sync point, and has every operation fail in turn. What was flushed is there, what was not may be there or
 * not, what was never written is the point's, and the map names no page whose content is not there.
 */
import { expect, test } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { isProblem } from '../../src/kit/problem.ts';
import type { Files } from '../../src/posix/files.ts';
import { createOverlay, Overlay } from '../../src/recovery/overlay.ts';
import { OverlaySpace } from '../../src/recovery/overlay-space.ts';
import { crashAll, noTotals, Recording, seed, soak } from '../crash/crash-points.ts';
import { failAt } from '../crash/faults.ts';
import { patchyContent } from '../nbd/backend-contract.ts';
import { MemoryBackend } from '../nbd/memory-backend.ts';
import { Dice, worstDice } from '../simulated-bytes.ts';
import { SimulatedFiles } from '../simulated-files.ts';

const sectorBytes = 512;
const size = 20 * 4096 + 3 * sectorBytes;
const paths = { overlay: '/f/disk-0.overlay', map: '/f/disk-0.map' };
const point = 3;
const content = patchyContent(size, 5);
const base = new MemoryBackend(Buffer.from(content), { readOnly: true });

function open(files: Files): Promise<Overlay> {
  return Overlay.open({ files, paths, point, base, space: new OverlaySpace(2 ** 40) });
}

/** What a disk owes its guest: the bytes as of the last flush that was answered, and the sectors written to since. */
interface Owed {
  readonly flushed: Buffer;
  readonly touched: ReadonlySet<number>;
}

class Guest {
  readonly #overlay: () => Overlay;
  readonly #dice: Dice;
  flushed = Buffer.from(content);
  now = Buffer.from(content);
  touched = new Set<number>();
  /** Of requests that were refused: done, half done, or not. */
  readonly #unsure = new Set<number>();
  /** Requests that were refused, by what with. */
  readonly refused = new Map<string, number>();

  constructor(overlay: () => Overlay, dice: Dice) {
    this.#overlay = overlay;
    this.#dice = dice;
  }

  owed(): Owed {
    return { flushed: this.flushed, touched: new Set(this.touched) };
  }

  async deed(): Promise<void> {
    const kind = this.#dice.below(10);
    if (kind < 3) {
      await this.#flush();
      return;
    }
    const offset = this.#dice.below(size - 1);
    const length = Math.min(size - offset, 1 + this.#dice.below(this.#dice.below(3) === 0 ? 30_000 : 3000));
    const fua = kind === 9;
    const zero = kind > 6;
    const data = patchyContent(length, 1 + this.#dice.below(2 ** 20));
    if (zero) data.fill(0);
    this.#touch(offset, length);
    const overlay = this.#overlay();
    const asked = zero ? overlay.zero(offset, length, fua, kind === 7) : overlay.write(Buffer.from(data), offset, fua);
    if (!(await this.#answered(asked))) {
      this.#touch(offset, length, this.#unsure);
      return;
    }
    data.copy(this.now, offset);
    if (fua) this.#allDurable();
  }

  async #flush(): Promise<void> {
    if (await this.#answered(this.#overlay().flush())) this.#allDurable();
  }

  #allDurable(): void {
    this.flushed = Buffer.from(this.now);
    this.touched = new Set(this.#unsure);
  }

  #touch(offset: number, length: number, into = this.touched): void {
    for (let at = Math.floor(offset / sectorBytes); at * sectorBytes < offset + length; at += 1) into.add(at);
  }

  async #answered(asked: Promise<void>): Promise<boolean> {
    try {
      await asked;
      return true;
    } catch (error) {
      const code = isProblem(error) ? error.code : String(error);
      this.refused.set(code, (this.refused.get(code) ?? 0) + 1);
      return false;
    }
  }
}

async function whole(overlay: Overlay): Promise<Buffer> {
  const bytes = Buffer.alloc(size, 0xc3);
  await overlay.read(bytes, 0);
  return bytes;
}

function expectOwed(bytes: Buffer, { flushed, touched }: Owed): void {
  for (let sector = 0; sector * sectorBytes < size; sector += 1) {
    if (touched.has(sector)) continue;
    const [from, end] = [sector * sectorBytes, (sector + 1) * sectorBytes];
    if (!bytes.subarray(from, end).equals(flushed.subarray(from, end)))
      throw new Error(`sector ${sector} is not as it was flushed`);
  }
}

async function expectExtents(overlay: Overlay, bytes: Buffer): Promise<void> {
  let at = 0;
  while (at < size) {
    for (const { zero, length } of await overlay.extents(at, size - at)) {
      if (zero && bytes.subarray(at, at + length).some((byte) => byte !== 0)) throw new Error(`no zeros at ${at}`);
      at += length;
    }
  }
}

/** What the recovery owes while `judge` is at it: it writes too. */
let meanwhile: Owed = { flushed: content, touched: new Set() };
const judgedSectors = [7, 8];

/** Opens what is left; what is read is owed, stays as it is, and takes writes that survive in turn. */
async function judge(files: SimulatedFiles, owed: Owed): Promise<void> {
  meanwhile = { ...owed, touched: new Set([...owed.touched, ...judgedSectors]) };
  const overlay = await open(files);
  const bytes = await whole(overlay);
  expectOwed(bytes, owed);
  await expectExtents(overlay, bytes);
  bytes.fill(0xab, 4000, 4200);
  await overlay.write(Buffer.alloc(200, 0xab), 4000, true);
  await overlay.close();
  const again = await open(files.afterPowerLoss(new Dice(1)));
  if (!(await whole(again)).equals(bytes))
    throw new Error('what was read and flushed is not there after the next power failure');
  await again.close();
}

test('power is lost at every sync point', async () => {
  const totals = noTotals();
  for (let life = 0; life < (soak ? 60 : 6); life += 1) {
    const files = new SimulatedFiles(['/f']);
    const dice = new Dice(seed + life);
    await createOverlay(files, paths, { point, diskSize: size });
    let overlay = await open(files);
    const guest = new Guest(() => overlay, dice);
    const recording = new Recording(() => guest.owed());
    recording.watch(() => files);
    files.turnsMax = life % 2 === 0 ? 3 : 0;
    for (let deed = 0; deed < 60; deed += 1) {
      await guest.deed();
      if (deed % 15 === 14) {
        await overlay.close();
        overlay = await open(files);
      }
    }
    expect(guest.refused.size).toBe(0);
    recording.add('the end', files);
    expect((await whole(overlay)).equals(guest.now)).toBe(true);
    await crashAll(recording, {
      name: `life ${life}`,
      lots: soak ? 12 : 6,
      againEvery: 40,
      judge,
      meanwhile: () => meanwhile,
      totals,
    });
  }
  console.info(`overlay: ${JSON.stringify(totals)}`);
  expect(totals.states).toBeGreaterThan(1000);
}, 300_000);

test('every operation fails once: refused, nothing flushed lost, no sync after a failed one', async () => {
  let failed = 0;
  for (let n = 1; ; n += 1) {
    const files = new SimulatedFiles(['/f']);
    await createOverlay(files, paths, { point, diskSize: size });
    const fault = failAt(files, n);
    const overlay = await open(fault.listener.at(files)).catch(() => null);
    const guest = new Guest(() => overlay ?? expect.fail('it did not open'), new Dice(seed + n));
    if (overlay) for (let deed = 0; deed < 30; deed += 1) await guest.deed();
    if (fault.fired === null) break;
    failed += 1;
    const what = `operation ${n} (${fault.fired})`;
    fault.expectHeard();
    if (overlay) {
      expect(guest.refused.size, `${what}: nobody was told`).toBe(1);
      // Reads go on, whatever failed.
      expectOwed(await whole(overlay), guest.owed());
    }
    expect(files.violations, what).toEqual([]);
    files.fault = () => null;
    for (const survivor of [files.afterPowerLoss(new Dice(n)), files.afterPowerLoss(new Dice(n + 999)), files.kill()])
      await judge(survivor, guest.owed()).catch((error: unknown) => {
        throw new Error(`${what}: ${String(error)}`, { cause: error });
      });
  }
  console.info(`overlay: ${failed} operations failed`);
  expect(failed).toBeGreaterThan(20);
}, 300_000);

test('requests side by side, while syncs take their time', async () => {
  for (let life = 0; life < (soak ? 100 : 10); life += 1) {
    const files = new SimulatedFiles(['/f']);
    await createOverlay(files, paths, { point, diskSize: size });
    files.slow = () => 4;
    files.turnsMax = 3;
    const dice = new Dice(seed + life);
    const overlay = await open(files);
    const [page, others] = [5 * 4096, 9 * 4096];
    // A write that comes while a flush is under way must not be named by the map that flush writes.
    const first = overlay.write(Buffer.alloc(4096, 1), page, false);
    await first;
    const flush = overlay.flush();
    for (let turn = 0; turn < dice.below(12); turn += 1) await systemClock.turn();
    const late = overlay.write(Buffer.alloc(700, 2), others + 100, false);
    const worst = Promise.all([flush, late]);
    await flush;
    const survivor = files.afterPowerLoss(dice);
    const found = await open(survivor);
    const bytes = await whole(found);
    expect(bytes.subarray(page, page + 4096).equals(Buffer.alloc(4096, 1))).toBe(true);
    const untouched = [others, others + 1024, others + 3072];
    for (const at of untouched) expect(bytes.subarray(at, at + 64).equals(content.subarray(at, at + 64))).toBe(true);
    await worst;
    await overlay.close();
  }
});

test('a flush that failed to write the map is made good by the next one', async () => {
  const files = new SimulatedFiles(['/f']);
  await createOverlay(files, paths, { point, diskSize: size });
  const overlay = await open(files);
  await overlay.write(Buffer.alloc(4096, 1), 4096, false);
  files.fault = (operation, file) => (operation === 'write' && file === paths.map ? { code: 'ENOSPC' } : null);
  await expect(overlay.flush()).rejects.toMatchObject({ code: 'ENOSPC' });
  files.fault = () => null;
  await overlay.flush();
  const found = await open(files.afterPowerLoss(worstDice));
  expect((await whole(found)).subarray(4096, 8192).equals(Buffer.alloc(4096, 1))).toBe(true);
});

test('the map as a killed process left it is durable before it is built on', async () => {
  const files = new SimulatedFiles(['/f']);
  await createOverlay(files, paths, { point, diskSize: size });
  const overlay = await open(files);
  await overlay.write(Buffer.alloc(4096, 1), 0, true);
  await overlay.write(Buffer.alloc(4096, 2), 4096, false);
  const killed: SimulatedFiles[] = [];
  // Its block is written, and not synced.
  files.watch = (operation, file) => {
    if (operation === 'datasync' && file === paths.map) killed.push(files.copy());
  };
  await overlay.flush();
  const again = killed[0] ?? expect.fail('the map was not synced');
  const second = await open(again);
  await second.write(Buffer.alloc(4096, 3), 8192, false);
  const left: SimulatedFiles[] = [];
  again.watch = (operation, file) => {
    if (operation === 'datasync' && file === paths.map)
      for (let lot = 0; lot < 200; lot += 1) left.push(again.afterPowerLoss(new Dice(seed + lot)));
  };
  await second.flush();
  expect(left).toHaveLength(200);
  for (const survivor of left)
    expect((await whole(await open(survivor))).subarray(0, 4096).equals(Buffer.alloc(4096, 1))).toBe(true);
});

test('a flush that could not be made durable is the last one, and whoever asks hears of it', async () => {
  const files = new SimulatedFiles(['/f']);
  await createOverlay(files, paths, { point, diskSize: size });
  const overlay = await open(files);
  await overlay.write(Buffer.alloc(4096, 1), 4096, false);
  files.fault = (operation, file) => (operation === 'datasync' && file === paths.overlay ? { code: 'EIO' } : null);
  await expect(overlay.flush()).rejects.toMatchObject({ code: 'EIO' });
  files.fault = () => null;
  await expect(overlay.flush()).rejects.toMatchObject({ code: 'EIO' });
  expect(overlay.trouble).toEqual({ why: 'sync', bytes: 0 });
});
