/**
 * A site whose disks are replicated and whose agent makes a point every second: what writers are then measured on. Everybody is calm before: the
 * first point is proven.
 */
import { systemClock } from '../../src/kit/clock.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { Site, type SiteDisk, type SiteOptions } from '../demo/site.ts';
import { loggedPoints, type LoggedPoint } from './agent-log.ts';
import { operator } from './operator.ts';
import { until } from './until.ts';

const calmPollMs = 250;

export class RunningSite {
  readonly site: Site;
  readonly clients: readonly NbdClient[];

  private constructor(site: Site, clients: readonly NbdClient[]) {
    this.site = site;
    this.clients = clients;
  }

  /** `disks` exist; each gets one client. The caller stops it. */
  static async start(
    directory: string,
    disks: readonly SiteDisk[],
    places: NonNullable<SiteOptions['places']> = {},
  ): Promise<RunningSite> {
    const how = { intervalSeconds: 1, compression: 'lz4', places, run: operator } as const;
    const site = new Site({ directory, machine: 'bench', disks, ...how });
    try {
      await site.enrollAll();
      await site.startTarget();
      await site.startProcessServer();
      await site.startAgent();
      const clients: NbdClient[] = [];
      for (const { name } of disks)
        clients.push(await connectNbd({ unixPath: site.socketOf(name) }, { exportName: name, clock: systemClock }));
      const running = new RunningSite(site, clients);
      await until('the first point', async () => (await running.points()).length > 0);
      await running.calm();
      return running;
    } catch (error) {
      await site.stop();
      throw error;
    }
  }

  points(): Promise<readonly LoggedPoint[]> {
    return loggedPoints(this.site.dir('agent.log'));
  }

  /** Asks for a point right away, or behind the one that is being made. */
  pointNow(): void {
    process.kill(this.site.role('agent').pid, 'SIGUSR2');
  }

  /** Until a point has the first `writes[disk]` writes of every disk; the first such point. */
  async durable(writes: readonly number[]): Promise<LoggedPoint> {
    let holding: LoggedPoint | undefined;
    await until('a point with all writes', async () => {
      const points = await this.points();
      holding = points.find((point) => writes.every((count, disk) => (point.writes[disk] ?? 0) >= count));
      return holding !== undefined;
    });
    if (!holding) throw new Error('no point has all writes');
    return holding;
  }

  /** Until every point is proven. */
  calm(): Promise<void> {
    const of = async (role: 'agent' | 'target', series: string): Promise<number> =>
      (await this.site.metric(role, series)) ?? 0;
    const isCalm = async (): Promise<boolean> => {
      const committed = await of('agent', 'tidemark_agent_points_committed_total');
      return (await of('target', 'tidemark_target_points_proven_total')) >= committed;
    };
    return until('the proof of all points', isCalm, calmPollMs);
  }

  async stop(): Promise<void> {
    for (const client of this.clients) client.destroy();
    await this.site.stop();
  }
}
