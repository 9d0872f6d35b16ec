/** A process server's leases, plugged together: its keeper, what it says of its load, the address it gives to agents. */
import { hostname } from 'node:os';
import type { ProcessServerConfig } from '../config.ts';
import { ControlClient } from '../control/client.ts';
import { limits } from '../limits.ts';
import type { Logger } from '../observe/logger.ts';
import type { ProcessServer } from '../process-server/server.ts';
import { formatAddress } from '../transport/address.ts';
import type { Credentials } from '../transport/credentials.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import { registerLeaseSeries } from './lease-series.ts';
import type { Parts, RoleBuilder } from './parts.ts';

const instanceBytes = 16;

/** Where agents reach it: as configured, else where it listens, else this host by its name. */
function addressOf({ advertise, listen }: ProcessServerConfig, port: number): string {
  const everywhere = ['0.0.0.0', '::'].includes(listen.host);
  const own = { host: everywhere ? hostname() : listen.host, port };
  return formatAddress(advertise ? { ...advertise, port: advertise.port || port } : own);
}

/** Begins with the leases of a process server that listens on `port`; null: there is no control API, or leases are not wanted. */
export function keepLeases(
  { clock, random }: Parts,
  {
    config,
    credentials,
    logger,
    builder,
  }: { config: ProcessServerConfig; credentials: Credentials; logger: Logger; builder: RoleBuilder },
  server: ProcessServer,
  port: number,
): LeaseKeeper | null {
  if (config.controlUrl === undefined || !config.leases) return null;
  const { controlUrl: url } = config;
  const access = { kind: 'role', credentials } as const;
  const client = new ControlClient({ url, access, clock, deadlineMs: limits.leases.askMs });
  const session = random.bytes(instanceBytes).toString('hex');
  const address = addressOf(config, port);
  const inUse = (): ReadonlySet<string> =>
    new Set([...server.sessions, ...server.spoolReport().machines].map(({ machine }) => machine));
  const load = () => ({
    sessions: server.sessions.length,
    inFlightBytes: server.sessions.reduce((sum, { counters }) => sum + counters.inFlightBytes, 0),
    windowBytes: server.windowLimitBytes,
  });
  const keeper = new LeaseKeeper({
    ask: async (machines) =>
      (await client.call('holdLeases', { body: { session, address, ...load(), machines: [...machines] } })).value,
    inUse,
    endMachine: (machine, reason) => {
      server.endMachine(machine, reason);
    },
    clock,
    logger,
  });
  registerLeaseSeries(builder.registry, keeper);
  builder.closers.add(async () => {
    await keeper.close();
    client.close();
  });
  return keeper;
}
