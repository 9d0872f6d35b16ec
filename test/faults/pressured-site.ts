/** Many machines, two process servers as processes, one target on a disk that can be slow: all that `pressure.test.ts` is about, with its readings. */
import { globSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import type { Problem } from '../../src/kit/problem.ts';
import { systemRandom } from '../../src/kit/random.ts';
import type { LogFields, Logger } from '../../src/observe/logger.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { PointImage } from '../../src/recovery/point-image.ts';
import { MachineView } from '../../src/store/machine-view.ts';
import { Vault } from '../../src/store/vault.ts';
import type { Credentials } from '../../src/transport/credentials.ts';
import { listen, type Listener } from '../../src/transport/server.ts';
import { bootId, TargetLife } from '../pipeline/target-life.ts';
import { KiB, MiB } from '../product/content.ts';
import { imageContent } from '../recovery/image-content.ts';
import { makeSite, type TestSite } from '../transport/site.ts';
import { FlappingLink } from './flapping-link.ts';
import { disk, PressuredMachine } from './pressured-machine.ts';
import { PressuredServer } from './pressured-server.ts';
import { SlowDisk } from './slow-disk.ts';

export const machineCount = 64;
/** Every so many-th machine is behind the flapping link. */
const behindLinkEvery = 8;
/** All machines at the one server that is left fill its smallest windows to nine tenths, and these are half of its budget. */
const minBytes = 640 * KiB;
export const budget = { minBytes, totalBytes: Math.ceil(machineCount / 0.9) * 2 * minBytes };
export const spoolBytesMax = 48 * MiB;

export type ServerName = 'a' | 'b';

/** What roles say, and what none should ever say. */
class Heard {
  readonly lines: string[] = [];
  readonly alarms: string[] = [];

  logger(of: LogFields): Logger {
    const say = (level: string) => (fields: LogFields, message: string) => {
      const line = `${level} ${message} ${JSON.stringify({ ...of, ...fields, error: String(fields['error']) })}`;
      this.lines.push(line);
      if (fields['error'] !== undefined || level === 'error') this.alarms.push(line);
    };
    const [debug, info, warn, error] = [say('debug'), say('info'), say('warn'), say('error')];
    return { debug, info, warn, error, child: (fields) => this.logger({ ...of, ...fields }) };
  }
}

export class PressuredSite {
  readonly disk = new SlowDisk();
  readonly machines: PressuredMachine[] = [];
  readonly behindLink = new Set<PressuredMachine>();
  readonly links: FlappingLink[] = [];
  readonly heard = new Heard();
  /** Of the target's stores. */
  readonly fatal: Problem[] = [];
  readonly #servers = new Map<ServerName, PressuredServer>();
  readonly #directory = mkdtempSync(path.join(tmpdir(), 'tidemark-pressure-'));
  #certificates: TestSite | null = null;
  #target: TargetLife | null = null;
  #targetCredentials: Credentials | null = null;
  #listener: Listener | null = null;
  #targetPort = 0;

  /** Everything runs; nobody writes. */
  async start(seed: number): Promise<void> {
    this.#certificates = await makeSite();
    const target = await TargetLife.start({
      data: this.#dir('data'),
      store: this.#dir('none'),
      vaultKey: this.#dir('vault.key'),
      fatal: this.fatal,
      logger: (role) => this.heard.logger({ role }),
    });
    this.#target = target;
    target.files.trouble = this.disk.trouble;
    this.#targetCredentials = await this.#certificates.credentials('target', 't-1');
    await this.targetReachable();
    for (const name of ['a', 'b'] as const) {
      await this.startServer(name);
      this.links.push(await FlappingLink.open(() => this.server(name).port));
    }
    const indexes = Array.from({ length: machineCount }, (_, index) => index);
    this.machines.push(...(await Promise.all(indexes.map((index) => this.#startMachine(index, seed + index)))));
  }

  /** From now on process servers reach the target. */
  async targetReachable(): Promise<void> {
    const credentials = this.#targetCredentials;
    if (!credentials) throw new Error('the target has a certificate');
    this.#listener = await listen({
      ...{ host: '127.0.0.1', port: this.#targetPort, credentials, accept: ['process-server'], clock: systemClock },
      onConnection: (connection) => this.#target?.target.accept(connection),
      onRefused: (refusal) => void this.heard.lines.push(JSON.stringify(refusal)),
    });
    this.#targetPort = this.#listener.port;
  }

  /** All its connections end, and there are none, until it is said to be reachable. */
  async targetAway(): Promise<void> {
    await this.#listener?.close();
  }

  /** At the port it had before, over what it left. */
  async startServer(name: ServerName): Promise<void> {
    const { keyPem, certPem, caPem } = await this.#issued('process-server', `ps-${name}`);
    const server = await PressuredServer.start({
      credentials: { keyPem, certPem, caPem },
      port: this.#servers.get(name)?.port ?? 0,
      targetPort: this.#targetPort,
      budget,
      spool: { directory: this.spoolOf(name), bytesMax: spoolBytesMax },
    });
    this.#servers.set(name, server);
  }

  server(name: ServerName): PressuredServer {
    const server = this.#servers.get(name);
    if (!server) throw new Error(`${name} was not started`);
    return server;
  }

  spoolOf(name: ServerName): string {
    return this.#dir(`spool-${name}`);
  }

  /** Below a spool; its server may take directories away meanwhile. */
  spoolFiles(name: ServerName): string[] {
    return globSync('**/*.spool', { cwd: this.spoolOf(name) });
  }

  /** Waits until `what` holds. @throws with how the machines are after `ms`. */
  async until(what: () => boolean, because: string, ms = 60_000): Promise<void> {
    const endMs = systemClock.monotonicMs() + ms;
    while (!what()) {
      if (systemClock.monotonicMs() > endMs) throw new Error(`${because}: not in ${ms} ms\n${this.#story()}`);
      await systemClock.sleep(20);
    }
  }

  stateOf(machine: PressuredMachine, point: number): string {
    return this.#target?.target.stores().get(machine.name)?.points.stateOf(point) ?? 'no store';
  }

  /** Ends machines, servers and target in order. */
  async close(): Promise<void> {
    await Promise.all(this.machines.map((machine) => machine.close()));
    await Promise.all([...this.#servers.values()].map((server) => server.end('SIGTERM')));
    await this.#endTarget();
  }

  /** Ends what runs and removes every file. */
  async remove(): Promise<void> {
    this.disk.syncMs = 0;
    await Promise.all(this.links.map((link) => link.close()));
    await Promise.all([...this.#servers.values()].map((server) => server.end('SIGKILL')));
    await Promise.allSettled(this.machines.map((machine) => machine.close()));
    await this.#endTarget();
    this.#certificates?.remove();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /**
   * Holds the newest point of a machine, or all of them, against what was written as of its cut. To be called while no target runs. Answers how many were
   * read. @throws Error.
   */
  async readBack(machine: PressuredMachine, which: 'newest' | 'all'): Promise<number> {
    const { name, model, cuts } = machine;
    const options = { files: posixFiles, clock: systemClock, data: this.#dir('data'), machine: name, bootId };
    const view = await MachineView.open({ ...options, scratch: this.#dir('scratch') });
    const vault = await Vault.open({ files: posixFiles, random: systemRandom, keyFile: this.#dir('vault.key') });
    try {
      const { points } = view.points;
      const wanted = which === 'all' ? points : points.slice(-1);
      for (const body of wanted) {
        const writes = cuts.get(body.cutTimeMs);
        if (writes === undefined || body.disks[0]?.writes !== writes)
          throw new Error(`${name}, point ${body.point}: of a cut that nobody made`);
        const image = new PointImage(await view.diskAt(view.disk(disk.name), body, vault), systemClock);
        if (!(await imageContent(image)).equals(model.at(0, writes)))
          throw new Error(`${name}, point ${body.point}: is not what was written`);
      }
      return wanted.length;
    } finally {
      await view.close();
    }
  }

  async #startMachine(index: number, seed: number): Promise<PressuredMachine> {
    const isBehindLink = index % behindLinkEvery === 0;
    const names =
      (index / (isBehindLink ? behindLinkEvery : 1)) % 2 === 0 ? (['a', 'b'] as const) : (['b', 'a'] as const);
    const name = `machine-${index + 1}`;
    const linkPorts = names.map((each) => this.links[each === 'a' ? 0 : 1]?.port ?? 0);
    const machine = await PressuredMachine.start({
      name,
      directory: this.#directory,
      credentials: await this.#issued('agent', name),
      processServers: isBehindLink ? linkPorts : names.map((each) => this.server(each).port),
      logger: this.heard.logger({ machine: name }),
      seed,
    });
    if (isBehindLink) this.behindLink.add(machine);
    return machine;
  }

  #issued(role: 'agent' | 'process-server', name: string): Promise<Credentials> {
    if (!this.#certificates) throw new Error('there is an authority');
    return this.#certificates.credentials(role, name);
  }

  async #endTarget(): Promise<void> {
    await this.#listener?.close();
    await this.#target?.close();
    this.#target = null;
  }

  #story(): string {
    const last = this.heard.lines.slice(-20);
    return [...this.machines.map(({ story }) => story), ...last].join('\n');
  }

  #dir(name: string): string {
    return path.join(this.#directory, name);
  }
}
