/** One run of an agent with its captures, composed as `main` does it, but without locks and sockets. */
import { Agent } from '../../src/agent/agent.ts';
import { readDiskState } from '../../src/agent/disk-state.ts';
import { ReplicaDisk } from '../../src/agent/replica-disk.ts';
import { makeCutAll } from '../../src/capture/cut.ts';
import { openNbdCapture } from '../../src/capture/nbd-open.ts';
import type { NbdCapture } from '../../src/capture/nbd-splitter.ts';
import { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import { posixFiles } from '../../src/posix/files.ts';
import type { MemoryConnection } from '../transport/memory-connection.ts';
import type { DiskModel } from './model.ts';
import { MortalFiles } from './mortal-files.ts';
import { clock, machine, type Surroundings } from './surroundings.ts';
import { peer } from './wires.ts';

export class AgentLife {
  readonly agent: Agent;
  readonly files: MortalFiles;
  readonly replicas: readonly ReplicaDisk[];
  /** Resolves when the agent was killed. */
  readonly dead: Promise<void>;
  readonly #captures: ReadonlyMap<string, NbdCapture>;
  readonly #loop: Promise<void>;
  readonly #wires: Set<MemoryConnection>;
  readonly #die: () => void;

  private constructor(
    site: Surroundings,
    files: MortalFiles,
    captures: Map<string, NbdCapture>,
    replicas: ReplicaDisk[],
  ) {
    this.files = files;
    this.replicas = replicas;
    this.#captures = captures;
    const wires = new Set<MemoryConnection>();
    this.#wires = wires;
    const { promise, resolve } = Promise.withResolvers<undefined>();
    this.dead = promise;
    this.#die = () => {
      resolve(undefined);
    };
    this.agent = new Agent({
      machine,
      version: 'test',
      disks: replicas,
      cutAll: site.watched(makeCutAll(clock)),
      connect: () => {
        const { processServer } = site;
        if (!processServer) throw new Problem('unreachable', 'there is no process server', { retryable: true });
        const [ours, theirs] = site.agentHop.join(peer('agent', machine), peer('process-server', 'ps-1'));
        wires.add(ours);
        void ours.closed.then(() => wires.delete(ours));
        processServer.accept(theirs);
        return Promise.resolve(ours);
      },
      intervalMs: () => site.intervalMs,
      compression: () => 'lz4',
      ...(site.app ? { app: site.app } : {}),
      definition: () => site.definition,
      hold: () => site.held,
      resyncWindow: () => site.resyncWindow(),
      resyncAtDirtyRatio: () => site.resyncAtDirtyRatio,
      ...(site.hasher ? { hasher: site.hasher } : {}),
      clock,
      random: systemRandom,
      logger: site.logger('agent', () => !files.dead),
    });
    this.#loop = this.agent.run();
  }

  static async start(site: Surroundings): Promise<AgentLife> {
    const files = new MortalFiles(posixFiles);
    const captures = new Map<string, NbdCapture>();
    const replicas: ReplicaDisk[] = [];
    for (const { name, image } of site.disks) {
      const state = await readDiskState(files, site.state, name);
      const capture = await openNbdCapture({
        files,
        clock,
        random: systemRandom,
        image,
        name,
        owner: `${machine}/${name}`,
        blockSize: site.blockSize,
        stateDirectory: site.state,
        hadLog: state !== null,
        lock: () => Promise.resolve({ release: () => Promise.resolve() }),
        copyBeforeWriteMemoryBytes: site.oldPagesBytesMax,
        copyBeforeWriteScratchBytes: site.oldPagesBytesMax,
      });
      captures.set(name, capture);
      replicas.push(await ReplicaDisk.open({ capture, files, directory: site.state, state }));
    }
    return new AgentLife(site, files, captures, replicas);
  }

  captureOf(disk: DiskModel): NbdCapture {
    const capture = this.#captures.get(disk.name);
    if (!capture) throw new Error(`disk ${disk.name} is captured`);
    return capture;
  }

  async close(): Promise<void> {
    this.agent.stop();
    await this.#loop;
    for (const replica of this.replicas) await replica.close();
    this.#die();
  }

  /** As SIGKILL: nothing it still does reaches a file or a wire. */
  async crash(): Promise<void> {
    const dying = this.files.die();
    for (const wire of this.#wires) wire.cut('killed');
    this.agent.stop();
    this.#die();
    await dying;
  }
}
