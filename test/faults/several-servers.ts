/** A protected machine behind several process servers, as real processes, with leases of control. */
import { expect } from 'vitest';
import { commandOk, RoleProcess } from '../../scripts/demo/process.ts';
import type { ProcessServersReport } from '../../src/cli/placement-roles.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { command } from '../product/command.ts';
import { MiB, writeImage } from '../product/content.ts';
import { disk, machine, Scene } from '../product/scene.ts';

export class SeveralServers {
  readonly scene: Scene;
  readonly servers = new Map<string, RoleProcess>();

  private constructor(scene: Scene) {
    this.scene = scene;
  }

  /** Everything runs, and the machine has a point. `control`: a command that starts it in its own way (`Place`). */
  static async start(seed: number, names: readonly string[], control: readonly string[] = []): Promise<SeveralServers> {
    const from = 4 * MiB;
    const scene = await Scene.open({
      image: (path) => writeImage(path, from + 4 * MiB, from, seed),
      writer: { from, pauseMs: 8, lanes: 2, sectorsMax: 16 },
      site: { reporting: true, places: { control: { address: '127.0.0.1', within: control } } },
    });
    const all = new SeveralServers(scene);
    try {
      await scene.site.startTarget();
      await commandOk(command, ['protect', machine, '--disk', disk, '--interval-seconds', '1', ...scene.site.operator]);
      for (const name of names) await all.startServer(name);
      const addresses = await Promise.all([...all.servers.values()].map((server) => server.where('agents')));
      await scene.startLife({ processServer: addresses.join(',') });
      await scene.untilPoints('the first point', (points) => points.length > 0);
      return all;
    } catch (error) {
      await all.close();
      throw error;
    }
  }

  async startServer(name: string): Promise<void> {
    const { site } = this.scene;
    const credentials = this.servers.has(name)
      ? site.dir(`${name}.credentials`)
      : await site.enroll('process-server', name, site.dir(`${name}.credentials`));
    const listen = (await this.servers.get(name)?.where('agents')) ?? '127.0.0.1:0';
    const words = ['process-server', '--data', site.dir(name), '--listen', listen, '--target', site.targetAddress];
    const common = ['--credentials', credentials, '--metrics', '127.0.0.1:0', '--control-url', site.controlUrl];
    const server = new RoleProcess(name, [...words, ...common], site.dir(`${name}.log`));
    this.servers.set(name, server);
    await server.where('agents');
  }

  server(name: string): RoleProcess {
    const server = this.servers.get(name);
    if (!server) throw new Error(`${name} was not started`);
    return server;
  }

  /** Who has the machine now; null: nobody. */
  async owner(): Promise<string | null> {
    const listed = await commandOk(command, ['process-servers', ...this.scene.site.operator, '--json']);
    const { processServers } = JSON.parse(listed) as ProcessServersReport;
    return processServers.find(({ machines }) => machines.includes(machine))?.name ?? null;
  }

  async ownerKnown(): Promise<string> {
    return this.scene.until('somebody has the machine', async () => (await this.owner()) ?? undefined);
  }

  async move(...words: readonly string[]): Promise<void> {
    await commandOk(command, ['move', machine, ...words, ...this.scene.site.operator]);
  }

  /** Seconds from `sinceMs` until a point that was cut later is committed. */
  async flowsAgain(sinceMs: number, withinMs = 30_000): Promise<number> {
    await this.scene.untilPoints(
      'a point after it',
      (points) => points.some(({ cutTimeMs }) => cutTimeMs > sinceMs),
      withinMs,
    );
    return (Date.now() - sinceMs) / 1000;
  }

  /** Ends the writer and the agent, and holds every point against what was written. Returns how many there are. */
  async allWhole(): Promise<number> {
    await this.scene.settle();
    await this.scene.endLife();
    const points = await this.scene.points();
    expect(points.map(({ point }) => point)).toEqual(points.map((_, index) => index + 1));
    expect(await this.scene.faults(points)).toEqual([]);
    expect(await this.scene.verified()).toBe(points.length);
    return points.length;
  }

  async close(): Promise<void> {
    for (const server of this.servers.values()) server.signal('SIGCONT');
    await Promise.all([...this.servers.values()].map((server) => server.stop()));
    await this.scene.close();
  }

  async pause(ms: number): Promise<void> {
    await systemClock.sleep(ms);
  }
}
