/** Leases over the API: who may ask, what is told to agents and operators, and moves. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ControlClient } from '../../src/control/client.ts';
import { limits } from '../../src/limits.ts';
import { Site } from './fixture.ts';

const { leaseMs } = limits.leases;
let site: Site;
beforeEach(async () => {
  site = await Site.start();
});
afterEach(async () => {
  await site.end();
});

const code = (wanted: string) =>
  expect.objectContaining({ code: wanted, remedy: expect.stringMatching(/./) as unknown }) as unknown;
type Want = 'take' | 'keep' | 'give-up';

class Server {
  readonly name: string;
  readonly #client: ControlClient;
  readonly #session: string;
  constructor(name: string, client: ControlClient, session = name) {
    this.name = name;
    this.#client = client;
    this.#session = Buffer.from(session.padEnd(16)).toString('hex');
  }
  static async enroll(name: string): Promise<Server> {
    return new Server(name, (await site.role('process-server', name)).client);
  }
  async ask(machines: readonly { machine: string; want: Want; epoch?: number }[], sessions = machines.length) {
    const load = { sessions, inFlightBytes: 0, windowBytes: 100 };
    const body = { session: this.#session, address: `${this.name}.example:9443`, ...load, machines: [...machines] };
    return (await this.#client.call('holdLeases', { body })).value;
  }
  async one(want: Want, epoch?: number) {
    const { machines } = await this.ask([{ machine: 'm1', want, ...(epoch === undefined ? {} : { epoch }) }]);
    return machines[0];
  }
}

describe('leases over the API', () => {
  it('are for process servers, each under its own name, many at once', async () => {
    const a = await Server.enroll('a');
    const asks = ['m1', 'm2', 'm3'].map((machine) => ({ machine, want: 'take' as const }));
    const reply = await a.ask(asks);
    expect(reply).toMatchObject({ leaseMs, alone: true });
    expect(reply.machines.map(({ held, epoch }) => [held, epoch])).toEqual([
      [true, 1],
      [true, 1],
      [true, 1],
    ]);
    const b = await Server.enroll('b');
    expect(await b.one('take')).toMatchObject({ held: false, holder: 'a', silent: false });
    expect((await a.ask([])).alone).toBe(false);
    expect(await a.one('give-up', 1)).toMatchObject({ held: false });
    expect(await b.one('take')).toMatchObject({ held: true, epoch: 2 });
    const { client } = await site.role('agent', 'm1');
    const body = {
      session: 'a'.repeat(32),
      address: 'x:1',
      sessions: 0,
      inFlightBytes: 0,
      windowBytes: 0,
      machines: [],
    };
    await expect(client.call('holdLeases', { body })).rejects.toEqual(code('not-authorised'));
    await expect(client.call('listProcessServers')).rejects.toEqual(code('not-authorised'));
  });

  it('are over by the clock of the state, and kept over a restart', async () => {
    const [a, b] = [await Server.enroll('a'), await Server.enroll('b')];
    await a.one('take');
    site.aheadMs = leaseMs - 2000;
    expect(await b.one('take')).toMatchObject({ held: false, holder: 'a', silent: true });
    site.aheadMs = leaseMs + 2000;
    expect(await b.one('take')).toMatchObject({ held: true, epoch: 2 });
    expect(await a.one('keep', 1)).toMatchObject({ held: false, holder: 'b' });
  });

  it('are gone with their machine, or later where somebody held them then', async () => {
    const operator = await site.operator();
    for (const name of ['m1', 'm2', 'm3'])
      await operator.call('putMachine', { name, body: { disks: [{ name: 'root' }] } });
    const a = await Server.enroll('a');
    const { credentials } = await site.role('process-server', 'b');
    const take = ['m1', 'm2', 'm3'].map((machine) => ({ machine, want: 'take' as const }));
    const epochs = async (asks = take) => {
      const b = new Server('b', site.client({ kind: 'role', credentials }));
      return (await b.ask(asks)).machines.map(({ epoch }) => epoch);
    };
    await a.ask(take);
    await operator.call('deleteMachine', { name: 'm2' });
    expect(await epochs()).toEqual([null, null, null]);
    site.aheadMs = leaseMs + 1000;
    await operator.call('deleteMachine', { name: 'm1' });
    expect(await epochs(take.slice(0, 1))).toEqual([1]);
    // The first looks for such leases when it starts, and has done so when it ends.
    await site.restart();
    await site.restart();
    expect(await epochs()).toEqual([1, 1, 2]);
  });

  it('are one’s, whoever asks at the same time', async () => {
    const servers = [await Server.enroll('a'), await Server.enroll('b'), await Server.enroll('c')];
    const machines = Array.from({ length: 20 }, (_, index) => ({ machine: `m${index}`, want: 'take' as const }));
    const replies = await Promise.all(servers.map((server) => server.ask(machines)));
    for (let index = 0; index < machines.length; index += 1)
      expect(replies.filter((reply) => reply.machines[index]?.held === true)).toHaveLength(1);
  });

  it('tell an agent where to go, and not where nobody is', async () => {
    const operator = await site.operator();
    await operator.call('putMachine', { name: 'm1', body: { disks: [{ name: 'root' }] } });
    const { client } = await site.role('agent', 'm1');
    const told = async () => (await client.call('getAgentConfig')).value.processServers;
    expect(await told()).toEqual([]);
    const [a, b] = [await Server.enroll('a'), await Server.enroll('b')];
    await a.ask([], 3);
    expect(await told()).toEqual([]);
    await b.ask([], 1);
    expect(await told()).toEqual(['b.example:9443', 'a.example:9443']);
    await a.one('take');
    expect(await told()).toEqual(['a.example:9443', 'b.example:9443']);
    site.aheadMs = leaseMs + 1000;
    await b.ask([]);
    expect(await told()).toEqual(['b.example:9443']);
  });

  it('move a machine by command, and say what there is', async () => {
    const operator = await site.operator();
    const move = async (to?: string) =>
      (await operator.call('moveMachine', { name: 'm1', body: to === undefined ? {} : { to } })).value;
    await expect(move()).rejects.toEqual(code('not-found'));
    await operator.call('putMachine', { name: 'm1', body: { disks: [{ name: 'root' }] } });
    await expect(move()).rejects.toEqual(code('unreachable'));
    const [a, b] = [await Server.enroll('a'), await Server.enroll('b')];
    await a.ask([]);
    await b.ask([]);
    await expect(move()).rejects.toEqual(code('not-found'));
    await expect(move('c')).rejects.toEqual(code('not-found'));
    await a.one('take');
    expect(await move('a')).toMatchObject({ from: 'a', to: 'a', changed: false });
    expect(await move()).toEqual({ machine: 'm1', from: 'a', to: 'b', address: 'b.example:9443', changed: true });
    expect(await a.one('keep', 1)).toMatchObject({ held: false, holder: 'b' });
    expect(await a.one('take')).toMatchObject({ held: false, holder: 'b' });
    expect(await b.one('take')).toMatchObject({ held: true, epoch: 2 });
    const { value } = await operator.call('listProcessServers');
    expect(value.processServers).toMatchObject([
      { name: 'a', address: 'a.example:9443', state: 'ok', machines: [] },
      { name: 'b', address: 'b.example:9443', state: 'ok', machines: ['m1'] },
    ]);
    site.aheadMs = leaseMs + 1000;
    await expect(move('a')).rejects.toEqual(code('unreachable'));
    const later = (await operator.call('listProcessServers')).value.processServers;
    expect(later.map(({ state, machines }) => [state, machines])).toEqual([
      ['silent', []],
      ['silent', []],
    ]);
  });

  it('are moved from who is busy for long, one machine at a time', async () => {
    const [a, b] = [await Server.enroll('a'), await Server.enroll('b')];
    const { client } = await site.role('process-server', 'a');
    const machines = ['m1', 'm2', 'm3'];
    const busy = async (want: Want) => {
      const load = { sessions: 3, inFlightBytes: 95, windowBytes: 100 };
      const asks = machines.map((machine) => ({ machine, want, epoch: want === 'keep' ? 1 : 0 }));
      const body = { session: 'a'.repeat(32), address: 'a.example:9443', ...load, machines: asks };
      return (await client.call('holdLeases', { body })).value.machines.filter(({ held }) => !held);
    };
    await a.ask([]);
    expect(await busy('take')).toEqual([]);
    const lost: string[] = [];
    const { settleMs, busyMs } = limits.leases;
    for (let passed = settleMs - busyMs; passed < settleMs + 3 * busyMs; passed += 9000) {
      site.aheadMs = passed;
      await b.ask([]);
      const gone = await busy('keep');
      lost.push(...gone.map(({ machine }) => machine));
      for (const { machine } of gone) machines.splice(machines.indexOf(machine), 1);
    }
    // The last one stays, whatever the load.
    expect(lost).toHaveLength(2);
    expect(machines).toHaveLength(1);
  });
});
