/**
 * One bit of what an agent remembers of a disk — change log, leaf file, state file — rots while it is down, after a stop in order or a kill. The
 * agent starts all the same, since a machine may be waiting for its disk; what it then believes is so, and the next point is the disk.
 */
import { expect, test, vi } from 'vitest';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { Dice } from '../simulated-bytes.ts';
import type { SimulatedFiles } from '../simulated-files.ts';
import { AgentRun, type AgentModel } from './agent-run.ts';
import { seed, soak } from './crash-points.ts';

type Limits = typeof import('../../src/limits.ts');
vi.mock('../../src/limits.ts', async (load) => {
  const real = await load<Limits>();
  const agent = {
    ...real.limits.agent,
    lastRoundBytes: 8192,
    batchPayloadBytes: 16_384,
    surveyPieceBytes: 16 * 65_536,
  };
  return { ...real, limits: { ...real.limits, agent } };
});

const ends = ['stopped', 'killed'] as const;

/** Points, and writes after the last one. */
async function left(how: (typeof ends)[number]): Promise<{ files: SimulatedFiles; model: AgentModel }> {
  const run = new AgentRun();
  await run.start();
  await run.cycle();
  await run.writeA();
  await run.writeB();
  await run.cycle();
  await run.writeA();
  run.endSession();
  const model = run.model();
  if (how === 'stopped') await run.disk.close();
  return { files: how === 'stopped' ? run.files : run.files.kill(), model };
}

function flipped(from: SimulatedFiles, name: string, bit: number): SimulatedFiles {
  const files = from.copy();
  const at = Math.floor(bit / 8);
  const byte = Buffer.alloc(1);
  files.content(name).read(byte, at);
  byte[0] = (byte[0] ?? 0) ^ (1 << (bit % 8));
  files.content(name).write(byte, at);
  files.durable(name).write(byte, at);
  return files;
}

/** A bit of a byte that is not zero, where there is one: most of a change log is padding. */
function anyBit(files: SimulatedFiles, name: string, dice: Dice): number {
  const bytes = files.content(name).bytes();
  for (let tries = 0; tries < 200; tries += 1) {
    const at = dice.below(bytes.byteLength);
    if (bytes[at] !== 0) return at * 8 + dice.below(8);
  }
  return dice.below(bytes.byteLength * 8);
}

test.each(ends)('an agent that was %s: one bit of any of its files', async (how) => {
  const { files, model } = await left(how);
  const dice = new Dice(seed);
  const reasons = new Map<string, number>();
  for (const name of ['/state/vda.hrl', '/state/vda.leaves', '/state/vda.json']) {
    for (let lot = 0; lot < (soak ? 800 : 80); lot += 1) {
      const bit = anyBit(files, name, dice);
      const run = AgentRun.after(flipped(files, name, bit), model);
      try {
        await run.start();
        run.expectRemembered();
        const reason = `${name}: ${run.disk.resyncReason}`;
        reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
        await run.cycle();
        run.expectReplicated();
      } catch (error) {
        throw new Error(`${how}, bit ${bit} of ${name}: ${String(error)}`, { cause: error });
      }
    }
  }
  console.info(`one bit, ${how}: ${JSON.stringify([...reasons])}`);
  for (const rotten of [
    '/state/vda.hrl: log-damaged',
    '/state/vda.leaves: leaves-lost',
    '/state/vda.json: leaves-lost',
  ])
    expect(reasons.get(rotten), rotten).toBeGreaterThan(0);
});

test('every bit of the state file: nothing it says is believed, and the file is kept', async () => {
  const { files } = await left('stopped');
  const [name, damaged] = ['/state/vda.json', '/state/vda.json.damaged'];
  const bits = files.content(name).size * 8;
  for (let bit = 0; bit < bits; bit += 1) {
    const rotten = flipped(files, name, bit);
    const text = rotten.content(name).bytes();
    const state = await readDiskState(rotten, '/state', 'vda');
    // White space around the text says nothing, and may be any other.
    if (state?.leaves && bit >= bits - 8) continue;
    expect(state, `bit ${bit}`).toMatchObject({ diskId: null, leaves: null, next: null, resync: 'leaves-lost' });
    expect(rotten.content(damaged).bytes().equals(text)).toBe(true);
    expect(await readDiskState(rotten, '/state', 'vda')).toEqual(state);
  }
});
