/** What a proof makes of damage found earlier, and of reads that fail for a while. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { limits } from '../../src/limits.ts';
import { posixFiles, type Files } from '../../src/posix/files.ts';
import { MachineLife } from './machine-fixture.ts';
import { unreadable } from './unreadable.ts';

let life: MachineLife;
beforeEach(async () => {
  life = await MachineLife.begin();
});
afterEach(() => life.remove());

const some = (count: number, first = 0): { block: number }[] =>
  Array.from({ length: count }, (_, index) => ({ block: first + index }));

async function repairList(): Promise<number[]> {
  return (await life.disk()).blocksToRepair();
}

/** Flips a bit of the last payload of a segment (the batch is its last entry; up to 7 bytes of padding follow). */
async function rot(number: number, before = 100): Promise<void> {
  const extent = life.store.points.extents.find((each) => each.segment === number);
  await life.flip(number, (extent?.length ?? 0) - before);
}

it('a point after a damaged one is not proven by its own blocks while it takes over unrepaired ones', async () => {
  await life.point(some(2));
  await rot(1);
  expect((await life.prove()).asked).toEqual([1]);
  await life.point([{ block: 7 }]);
  // Pages of block 1 come from the damaged record still.
  await life.point([{ block: 1, mask: 1 }]);
  await life.point([{ block: 1 }]);
  await life.prove();
  expect(life.states()).toEqual(['damaged', 'damaged', 'damaged', 'proven']);
});

it('a block replaced whole and then changed in part is not asked for again at a restart', async () => {
  await life.point(some(2));
  await rot(1);
  await life.prove();
  await life.point([{ block: 1 }]);
  await life.point([{ block: 1, mask: 6 }]);
  life = await life.again();
  expect(await repairList()).toEqual([]);
  await life.prove();
  expect(life.states()).toEqual(['damaged', 'proven', 'proven']);
});

it('more damaged blocks than one record names are all asked for after a restart', async () => {
  await life.point(some(700));
  await life.point(some(700, 700));
  const bad = some(1400).map(({ block }) => block);
  expect(await life.store.markDamaged(2, await life.disk(), bad)).toEqual(bad);
  life = await life.again();
  expect(await repairList()).toEqual(bad);
});

it('a proof that runs out of open files condemns nothing and is tried again', async () => {
  await life.point(some(2));
  let failing = true;
  const files: Files = {
    ...posixFiles,
    open: (path, mode, permissions) =>
      failing && mode === 'read' && path.endsWith('.seg')
        ? Promise.reject(Object.assign(new Error('too many open files'), { code: 'EMFILE' }))
        : posixFiles.open(path, mode, permissions),
  };
  failing = false;
  life = await life.again(files);
  failing = true;
  const later: (() => void)[] = [];
  const clock: Clock = {
    ...systemClock,
    after: (_, run) => {
      later.push(run);
      return { cancel: () => undefined };
    },
  };
  const { asked, prover } = await life.prove(clock);
  expect([life.states(), asked, later.length]).toEqual([['committed'], [], 1]);
  failing = false;
  later[0]?.();
  await prover.idle();
  expect(life.states()).toEqual(['proven']);
});

it('a sector that is gone for good is damage after some tries, and holds up no later point', async () => {
  await life.point(some(2));
  await life.point([{ block: 7 }]);
  await life.point([{ block: 1 }]);
  let broken = false;
  const extent = life.store.points.extents[0]?.length ?? 0;
  life = await life.again(unreadable(life.segment(1), { offset: extent - 100, broken: () => broken }));
  broken = true;
  let wake: () => void = () => undefined;
  const clock: Clock = {
    ...systemClock,
    after: (_, run) => {
      wake = run;
      return { cancel: () => undefined };
    },
  };
  const { asked, prover } = await life.prove(clock);
  for (let tries = 1; tries < limits.target.unreadableTriesMax; tries += 1) {
    expect([life.states(), asked]).toEqual([['committed', 'committed', 'committed'], []]);
    wake();
    await prover.idle();
  }
  // The sector holds block 1 of the first point; the third has it anew.
  expect(life.states()).toEqual(['damaged', 'damaged', 'proven']);
  expect(asked).toEqual([]);
});
