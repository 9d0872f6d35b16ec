/**
 * The master target: one store per machine, at most one session per machine, a prover, a scrubber and a folder beside each store.
 *
 * A store whose index could not be written (no space) refuses everything until it is opened again: it is closed, and the machine's next
 * session opens it and catches it up from the segments. The other machines do not notice.
 *
 * A newer session of a machine supersedes the older one, unless its epoch is refused (C9): that is decided, and what was decided durable, before
 * anything happens to the session that is there.
 */
import type { Clock } from '../kit/clock.ts';
import { FrameMemory } from '../kit/frame-memory.ts';
import { isProblem, messageOf, Problem } from '../kit/problem.ts';
import { SlabPool } from '../kit/slab-pool.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { DiskStore } from '../store/disk-store.ts';
import type { MachineStore } from '../store/machine-store.ts';
import { keepAll, type RetentionPolicy } from '../store/retention.ts';
import type { Aside } from '../store/points-record.ts';
import type { PointsView } from '../store/points-view.ts';
import type { Connection } from '../transport/connection.ts';
import type { Hello } from '../wire/hello.ts';
import { newTargetCounters, type TargetCounters } from './counters.ts';
import { failedOver } from './failed-over.ts';
import { Folder } from './folder.ts';
import { Gaps } from './gaps.ts';
import { Prover } from './prover.ts';
import { ScrubPace } from './scrub-pace.ts';
import { Scrubber } from './scrubber.ts';
import { TargetSession, type SessionHost } from './session.ts';

export interface TargetOptions {
  readonly version: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Opens (or creates) a machine's store. Called once per machine. */
  readonly openMachine: (machine: string) => Promise<MachineStore>;
  /** Machines that exist already. */
  readonly machines: () => Promise<readonly string[]>;
  /** What is kept of the machine; default: every point. */
  readonly retentionOf?: (machine: string) => RetentionPolicy;
  /** Why the machine's source is refused though its points do not say so; null: it is not. */
  readonly startedElsewhere?: (machine: string, points: PointsView) => Promise<Problem | null>;
}

interface Machine {
  readonly store: MachineStore;
  readonly prover: Prover;
  readonly scrubber: Scrubber;
  readonly folder: Folder;
  readonly gaps: Gaps;
}

export class Target {
  readonly counters: TargetCounters = newTargetCounters();
  readonly #options: TargetOptions;
  readonly #machines = new Map<string, Promise<Machine>>();
  /** Those of them whose store is open. */
  readonly #open = new Map<string, Machine>();
  readonly #pace: ScrubPace;
  /** Why a machine's store could not be opened the last time it was tried. */
  readonly #unopened = new Map<string, Problem>();
  /** Stores that failed and are being closed; they are not opened again before. */
  readonly #givenUp = new Map<string, Promise<void>>();
  readonly #sessions = new Map<string, TargetSession>();
  /** Machines whose sources are refused, and why. */
  #refused: ReadonlyMap<string, Problem> = new Map();
  readonly #all = new Set<TargetSession>();
  readonly #host: SessionHost;
  #closing = false;

  constructor(options: TargetOptions) {
    this.#options = options;
    this.#pace = new ScrubPace({
      clock: options.clock,
      share: limits.target.scrubCpuShare,
      isBusy: this.#isBusy,
    });
    this.#host = {
      version: options.version,
      clock: options.clock,
      logger: options.logger,
      counters: this.counters,
      memory: new FrameMemory(new SlabPool(limits.wire.idleSlabBytesMax)),
      admit: (hello, session) => this.#admit(hello, session),
      committed: (store) => {
        this.#with(store, ({ prover, gaps }) => {
          prover.wake();
          void gaps.flush();
        });
      },
      gap: (store, gap) => {
        this.#with(store, ({ gaps }) => {
          gaps.add(gap);
        });
      },
      ended: (session) => {
        this.#all.delete(session);
        for (const [machine, present] of this.#sessions) if (present === session) this.#sessions.delete(machine);
      },
    };
  }

  readonly #isBusy = (): boolean =>
    this.counters.queuedBytes > 0 || [...this.#open.values()].some(({ prover }) => prover.isBusy);

  /** Opens every machine there is and goes on proving what a stop left unproven. */
  async start(): Promise<void> {
    for (const machine of await this.#options.machines()) {
      try {
        (await this.#machine(machine)).prover.wake();
      } catch (error) {
        // One machine's damaged store must not take the others down; its sessions are refused with the same problem.
        this.#options.logger.error({ machine, error }, 'the store of this machine can not be opened');
        this.#machines.delete(machine);
      }
    }
  }

  /** Takes over an authenticated connection of a process server. */
  accept(connection: Connection): void {
    const session = new TargetSession(connection, this.#host);
    this.#all.add(session);
    if (this.#closing) session.end(new Problem('shutting-down', 'the target is stopping', { retryable: true }));
  }

  /** Stores that are open, by machine. */
  stores(): ReadonlyMap<string, MachineStore> {
    return new Map([...this.#open].map(([name, { store }]) => [name, store]));
  }

  /** The checks of what is stored, by machine. */
  scrubbers(): ReadonlyMap<string, Scrubber> {
    return new Map([...this.#open].map(([name, { scrubber }]) => [name, scrubber]));
  }

  /** Retention and fold, by machine. */
  folders(): ReadonlyMap<string, Folder> {
    return new Map([...this.#open].map(([name, { folder }]) => [name, folder]));
  }

  /** Machines whose store could not be opened, with the reason; their sessions are refused with it. */
  unopened(): ReadonlyMap<string, Problem> {
    return this.#unopened;
  }

  /** From now on these machines' sources are refused, and no others; sessions they have end. */
  refuse(machines: ReadonlyMap<string, Problem>): void {
    this.#refused = machines;
    for (const [name, problem] of machines) this.#sessions.get(name)?.end(problem);
  }

  /** Closes the store of a machine that is refused, so that its directory can be removed. */
  async release(name: string): Promise<void> {
    const machine = await this.#machines.get(name)?.catch(() => undefined);
    this.#machines.delete(name);
    this.#open.delete(name);
    if (machine) await closeMachine(machine);
  }

  /** Writes down what a command asks for, and ends the session of a source that is refused from now on. @throws as `MachineStore.recordAside`. */
  async record(name: string, entry: Aside): Promise<void> {
    const { store } = await this.#machine(name);
    await store.recordAside(entry);
    const moved = failedOver(name, store.points);
    if (moved) this.#sessions.get(name)?.end(moved);
  }

  sessions(): number {
    return this.#sessions.size;
  }

  /** Ends sessions and provers, closes the stores cleanly. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const session of [...this.#all])
      session.end(new Problem('shutting-down', 'the target is stopping', { retryable: true }));
    const opened = await Promise.all([...this.#machines.values()].map((opening) => opening.catch(() => null)));
    const machines = opened.filter((machine) => machine !== null);
    // They take turns: one that is to end would wait for the pauses of all that are before it.
    await Promise.all(machines.map(({ scrubber }) => scrubber.stop()));
    for (const machine of machines) await closeMachine(machine);
    await Promise.all(this.#givenUp.values());
  }

  #machine(name: string): Promise<Machine> {
    let machine = this.#machines.get(name);
    if (!machine) {
      machine = this.#openMachine(name);
      this.#machines.set(name, machine);
      machine.catch(() => {
        this.#machines.delete(name);
      });
    }
    return machine;
  }

  async #openMachine(name: string): Promise<Machine> {
    const { openMachine } = this.#options;
    await this.#givenUp.get(name);
    const store = await openMachine(name).catch((error: unknown): never => {
      const problem = isProblem(error) ? error : new Problem('internal', messageOf(error), { cause: error });
      this.#unopened.set(name, problem);
      throw problem;
    });
    this.#unopened.delete(name);
    const machine = this.#beside(name, store);
    this.#open.set(name, machine);
    machine.scrubber.start();
    machine.folder.start();
    void store.indexFailed.then((problem) => {
      this.#giveUp(name, machine, problem);
    });
    return machine;
  }

  #beside(name: string, store: MachineStore): Machine {
    const { clock, logger, retentionOf } = this.#options;
    const damaged = (disk: DiskStore, blocks: readonly number[]): void =>
      this.#sessions.get(name)?.requestRepair(disk, blocks);
    const common = { store, clock, logger, counters: this.counters, damaged };
    const prover = new Prover(common);
    const scrubber = new Scrubber({ ...common, pace: this.#pace, proofsWanted: () => prover.wake() });
    const retention = (): RetentionPolicy => retentionOf?.(name) ?? keepAll;
    const folder = new Folder({ ...common, retention, isBusy: this.#isBusy });
    return { store, prover, scrubber, folder, gaps: new Gaps({ store, clock, logger }) };
  }

  /** The machine's session ends, and its store is closed, so that the next session opens it anew. */
  #giveUp(name: string, machine: Machine, problem: Problem): void {
    if (this.#closing || this.#open.get(name) !== machine) return;
    this.#options.logger.error(
      { machine: name, error: problem },
      'the store of this machine failed and is opened again',
    );
    this.counters.storesFailed += 1;
    this.#open.delete(name);
    this.#machines.delete(name);
    const told = { remedy: problem.remedy, retryable: true, cause: problem };
    this.#sessions.get(name)?.end(new Problem('store-failed', problem.message, told));
    const closed = closeMachine(machine)
      .catch((error: unknown) => {
        this.#options.logger.error({ machine: name, error }, 'a failed store could not be closed cleanly');
      })
      .finally(() => {
        this.#givenUp.delete(name);
      });
    this.#givenUp.set(name, closed);
  }

  async #admit(hello: Hello, session: TargetSession): Promise<{ store: MachineStore; epoch: number }> {
    const { machine: name, instance, lease } = hello;
    const refusal = this.#refused.get(name);
    if (refusal) throw refusal;
    const { store } = await this.#machine(name);
    const { points } = store;
    const elsewhere = await this.#options.startedElsewhere?.(name, points);
    const refuse = (): void => {
      // Opening a store takes time; one who left meanwhile must not end who came after.
      if (session.isOver()) throw new Problem('closed', 'the session is over', { retryable: true });
      const moved = failedOver(name, points) ?? elsewhere;
      if (moved) throw moved;
      if (this.#open.get(name)?.store !== store)
        throw new Problem('store-failed', `the store of ${name} is opened again`, { retryable: true });
    };
    refuse();
    // One HELLO after another; what follows happens in the same step, so the last one admitted is the session that stays.
    const epoch = await store.acquireEpoch(instance, { server: session.connection.peer.name, lease: lease?.epoch });
    refuse();
    const older = this.#sessions.get(name);
    this.#sessions.set(name, session);
    older?.end(new Problem('superseded', `a newer session of ${name} took over`, { retryable: true }));
    await store.settle();
    refuse();
    return { store, epoch };
  }

  /** What stands beside an open store. */
  #with(store: MachineStore, act: (machine: Machine) => void): void {
    void this.#machines.get(store.machine)?.then((machine) => {
      if (machine.store === store) act(machine);
    });
  }
}

async function closeMachine({ store, prover, scrubber, folder, gaps }: Machine): Promise<void> {
  await folder.stop();
  await scrubber.stop();
  await prover.stop();
  await gaps.stop();
  await store.settle();
  await store.close();
}
