/** A process server with in-memory connections on both sides, and agents to drive it. */
import { systemClock } from '../../src/kit/clock.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { compareChecksums } from '../../src/process-server/compare-checksums.ts';
import type { Sealer } from '../../src/process-server/pool.ts';
import { sealBatch } from '../../src/process-server/seal-batch.ts';
import { ProcessServer, type ProcessServerOptions } from '../../src/process-server/server.ts';
import type { Role } from '../../src/transport/connection.ts';
import { frameType } from '../../src/wire/frame.ts';
import { batchOf, FakeAgent, FakeTarget, pair, silent, type TargetHooks } from './fakes.ts';

export const blockSize = 65_536;
export const seqBase = 2 ** 32;

/** Seals on this thread, finishing in a scrambled order. */
function scrambled(): Sealer {
  return {
    pending: 0,
    async seal(task) {
      const mine = { ...task, buffer: task.buffer.transfer() };
      await systemClock.sleep(systemRandom.fraction() * 8);
      return sealBatch(mine, systemClock);
    },
    async compare(task) {
      const mine = { ...task, source: task.source.transfer(), target: task.target.transfer() };
      await systemClock.sleep(systemRandom.fraction() * 8);
      return compareChecksums(mine, systemClock);
    },
  };
}

interface World {
  readonly server: ProcessServer;
  readonly targets: FakeTarget[];
  agent(name: string, role?: Role): FakeAgent;
}

export function world(hooks: TargetHooks = {}, change: Partial<ProcessServerOptions> = {}): World {
  const targets: FakeTarget[] = [];
  const server = new ProcessServer({
    connectTarget: () => {
      const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
      targets.push(new FakeTarget(theirs, hooks));
      return Promise.resolve(ours);
    },
    sealer: scrambled(),
    clock: systemClock,
    random: systemRandom,
    logger: silent,
    version: 'test',
    ...change,
  });
  return {
    server,
    targets,
    agent(name, role = 'agent') {
      const [agentEnd, serverEnd] = pair(['process-server', 'p1'], [role, name]);
      const agent = new FakeAgent(agentEnd);
      // `peer` of the server's end is who the agent is.
      server.accept(serverEnd);
      return agent;
    },
  };
}

export async function open(agent: FakeAgent, name: string, disks = 1, size = 4096 * blockSize): Promise<Uint8Array[]> {
  agent.hello(name);
  await agent.until(() => agent.frames.some(({ type }) => type === frameType.welcome));
  for (let disk = 0; disk < disks; disk += 1) agent.openDisk(disk, size);
  await agent.until(() => agent.opened.size === disks && agent.creditBytes > 0);
  return Array.from(
    { length: disks },
    (_, disk) => new Uint8Array(Buffer.from(agent.opened.get(disk)?.leafKey ?? '', 'hex')),
  );
}

export const content = (seed: number): Uint8Array => new Uint8Array(Buffer.alloc(blockSize, `block ${seed} `));
export const oneBlock = (disk: number, seq: number, batch: number, leafKey: Uint8Array, block = batch): Uint8Array =>
  batchOf({ disk, seq, batch, leafKey, blocks: [[block, content(block + 3)]] });

export function theTarget({ targets }: World): FakeTarget {
  const [target] = targets;
  if (!target) throw new Error('no target was connected');
  return target;
}
