/** Leases and placement as pure functions, and as a simulated site whose servers pause, whose answers are late and whose clocks go wrong. */
import { describe, expect, it } from 'vitest';
import type { Lease, LeaseAnswer, LeaseAsk, StoredProcess } from '../../src/control/lease-schemas.ts';
import { decideLease, type Asker, type LeaseWorld } from '../../src/control/leases.ts';
import { byRoom, isOverloaded, offered, relief } from '../../src/control/placement.ts';
import { heardNow, serversOf, type Servers } from '../../src/control/servers.ts';
import { limits } from '../../src/limits.ts';
import { diceOf, seedOfRun, type Dice } from '../product/content.ts';

const { leaseMs, stopEarlyMs, renewEveryMs, busyMs, settleMs, silentMs } = limits.leases;
const a: Asker = { name: 'a', session: 'a'.repeat(32) };
const b: Asker = { name: 'b', session: 'b'.repeat(32) };
const at = (nowMs: number, silent: readonly string[] = []): LeaseWorld => ({
  nowMs,
  heard: (name) => !silent.includes(name),
});
const take = (above = 0): LeaseAsk => ({ machine: 'm', want: 'take', epoch: above });
const keep = (epoch: number): LeaseAsk => ({ machine: 'm', want: 'keep', epoch });
const giveUp = (epoch: number): LeaseAsk => ({ machine: 'm', want: 'give-up', epoch });

/** One record, with what was decided of it. */
class OneLease {
  lease: Lease | undefined;
  ask(ask: LeaseAsk, asker: Asker, world: LeaseWorld): LeaseAnswer {
    const { answer, lease } = decideLease(this.lease, ask, asker, world);
    if (lease) this.lease = lease;
    return answer;
  }
}

describe('a lease', () => {
  it('is one holder’s until it is over, and each holder’s epoch is higher', () => {
    const record = new OneLease();
    expect(record.ask(take(), a, at(0))).toMatchObject({ held: true, epoch: 1 });
    expect(record.ask(take(), b, at(3000))).toEqual({
      machine: 'm',
      held: false,
      epoch: null,
      holder: 'a',
      freeInMs: leaseMs - 3000,
      silent: false,
    });
    expect(record.ask(take(), b, at(silentMs + 1))).toMatchObject({ held: false, silent: true });
    expect(record.ask(keep(1), a, at(6000))).toMatchObject({ held: true, epoch: 1 });
    expect(record.ask(take(), b, at(leaseMs))).toMatchObject({ held: false });
    expect(record.ask(take(), b, at(6000 + leaseMs))).toMatchObject({ held: true, epoch: 2 });
    expect(record.ask(keep(1), a, at(6000 + leaseMs))).toMatchObject({ held: false, holder: 'b' });
    expect(record.ask(giveUp(1), a, at(6000 + leaseMs))).toMatchObject({ held: false });
    expect(record.ask(keep(2), b, at(7000 + leaseMs))).toMatchObject({ held: true, epoch: 2 });
    expect(record.ask(giveUp(2), b, at(8000 + leaseMs))).toMatchObject({ held: false });
    expect(record.ask(take(), a, at(8000 + leaseMs))).toMatchObject({ held: true, epoch: 3 });
  });

  it('that is over and was nobody else’s goes on with its epoch', () => {
    const record = new OneLease();
    record.ask(take(), a, at(0));
    expect(record.ask(keep(1), a, at(leaseMs + 5))).toMatchObject({ held: true, epoch: 1 });
  });

  it('goes to another run of the same process server at once, under a higher epoch', () => {
    const record = new OneLease();
    record.ask(take(), a, at(0));
    const again = { name: 'a', session: 'c'.repeat(32) };
    expect(record.ask(take(), again, at(1))).toMatchObject({ held: true, epoch: 2 });
    expect(record.ask(keep(1), a, at(2))).toMatchObject({ held: false });
    expect(record.ask(keep(2), a, at(2))).toMatchObject({ held: false });
  });

  it('has an epoch above what the target reported', () => {
    const record = new OneLease();
    record.ask(take(), a, at(0));
    expect(record.ask(take(57), a, at(1))).toMatchObject({ held: true, epoch: 58 });
    expect(record.ask(take(57), a, at(2))).toMatchObject({ held: true, epoch: 58 });
    expect(record.ask(giveUp(58), a, at(3))).toMatchObject({ held: false });
    expect(record.ask(take(), b, at(4))).toMatchObject({ held: true, epoch: 59 });
  });

  it('that is moved is not renewed, and waits for whom it was moved to while that one is heard', () => {
    const record = new OneLease();
    record.ask(take(), a, at(0));
    const moved = { to: 'b', untilMs: 30_000 };
    record.lease = { ...(record.lease as Lease), move: moved };
    expect(record.ask(take(), { name: 'c', session: 'c'.repeat(32) }, at(10))).toMatchObject({
      held: false,
      holder: 'b',
    });
    expect(record.ask(keep(1), a, at(20))).toMatchObject({ held: false, holder: 'b' });
    expect(record.ask(take(), a, at(30))).toMatchObject({ held: false, holder: 'b' });
    expect(record.ask(take(), b, at(40))).toMatchObject({ held: true, epoch: 2 });
    expect(record.lease.move).toBeNull();
    // Nobody waits for one that is silent, or too long.
    record.lease = { ...record.lease, move: { to: 'a', untilMs: 30_000 } };
    expect(record.ask(keep(2), b, at(50, ['a']))).toMatchObject({ held: true });
    record.lease = { ...record.lease, move: { to: 'a', untilMs: 60 } };
    expect(record.ask(keep(2), b, at(60))).toMatchObject({ held: true });
  });
});

/** A process server as `lease-keeper.ts` behaves, with a clock of its own rate that pauses never stop. */
interface Simulated {
  readonly asker: Asker;
  /** Of its monotonic clock: 1.02 goes 2 % too fast. */
  readonly rate: number;
  session: number;
  epoch: number;
  /** By its own clock; believed to hold before. */
  untilMs: number;
  /** True time until which it does nothing. */
  pausedUntil: number;
}

interface Pending {
  readonly dueMs: number;
  readonly run: () => void;
}

/** Throws if the epoch does not rise with the holder; 1 if it rose. */
function checkedStep(before: Lease | undefined, after: Lease): number {
  if (!before) return 1;
  if (after.epoch < before.epoch) throw new Error('an epoch fell');
  const other = before.holder !== after.holder || before.session !== after.session;
  if (after.holder !== null && other && after.epoch <= before.epoch) throw new Error('a new holder with an old epoch');
  return after.epoch > before.epoch ? 1 : 0;
}

function newServer(name: string, dice: Dice): Simulated {
  const asker = { name, session: name.repeat(32) };
  return { asker, rate: 1 + dice.between(-20, 21) / 1000, session: 0, epoch: 0, untilMs: 0, pausedUntil: 0 };
}
const ownMs = ({ rate }: Simulated, nowMs: number): number => nowMs * rate;
const believes = (server: Simulated, nowMs: number): boolean =>
  server.epoch > 0 && ownMs(server, nowMs) < server.untilMs;

/** Runs a site of three servers and two APIs; returns how many takeovers there were. Every rule is checked after every step. */
function simulate(dice: Dice, steps: number): number {
  let nowMs = 1_000_000;
  /** The state's own clock: it steps. */
  let offMs = 0;
  let stored: { lease: Lease | undefined; version: number } = { lease: undefined, version: 0 };
  let takeovers = 0;
  const pending: Pending[] = [];
  const servers = ['a', 'b', 'c'].map((name) => newServer(name, dice));
  const later = (ms: number, run: () => void): void => void pending.push({ dueMs: nowMs + ms, run });

  /** An API takes the question: time, then record, then commit if the record is still the one that was read. */
  const ask = (server: Simulated, question: LeaseAsk, answered: (answer: LeaseAnswer) => void): void => {
    const attempt = (): void => {
      const readMs = nowMs + offMs;
      later(dice.between(0, 300), () => {
        const read = stored;
        const { answer, lease } = decideLease(read.lease, question, server.asker, at(readMs));
        later(dice.between(0, 300), () => {
          if (lease && stored.version !== read.version) return attempt();
          if (lease) {
            takeovers += checkedStep(stored.lease, lease);
            stored = { lease, version: read.version + 1 };
          }
          later(dice.between(0, 2000), () => answered(answer));
        });
      });
    };
    later(dice.between(0, 1500), attempt);
  };
  for (let step = 0; step < steps; step += 1) {
    nowMs += dice.between(1, 1200);
    for (const due of pending.filter(({ dueMs }) => dueMs <= nowMs).sort((x, y) => x.dueMs - y.dueMs)) {
      pending.splice(pending.indexOf(due), 1);
      due.run();
    }
    const server = dice.pick(servers);
    const luck = dice.between(0, 100);
    if (luck < 4) server.pausedUntil = nowMs + dice.between(1000, 3 * leaseMs);
    // Steps forward only make leases end early: epochs see to the rest (leases.ts, 4); here they are small, or backwards.
    else if (luck < 6) offMs -= dice.between(0, 2000);
    if (server.pausedUntil > nowMs) continue;
    const askedMs = ownMs(server, nowMs);
    const epoch = server.epoch;
    const question = believes(server, nowMs) ? keep(epoch) : take();
    ask(server, question, (answer) => {
      if (answer.held && answer.epoch !== null) {
        server.epoch = answer.epoch;
        server.untilMs = Math.max(server.untilMs, askedMs + leaseMs - stopEarlyMs);
      } else if (server.epoch === epoch) server.epoch = 0;
    });
    const owners = servers.filter((one) => believes(one, nowMs));
    if (owners.length > 1) throw new Error(`${owners.map(({ asker }) => asker.name).join(' and ')} believe to own it`);
  }
  return takeovers;
}

describe('a simulated site', () => {
  it('never has two owners, and no epoch falls, whatever pauses, races and clocks do', () => {
    const seed = seedOfRun('leases');
    let takeovers = 0;
    for (let run = 0; run < 300; run += 1) takeovers += simulate(diceOf(seed + run), 400);
    expect(takeovers).toBeGreaterThan(1000);
  });
});

const process = (more: Partial<StoredProcess> = {}): StoredProcess => ({
  address: 'x:1',
  sessions: 2,
  inFlightBytes: 0,
  windowBytes: 100,
  heardMs: 0,
  busySinceMs: null,
  ...more,
});
/** By name: its processes, one or more. */
const site = (servers: Record<string, StoredProcess | readonly StoredProcess[]>, nowMs: number): Servers =>
  serversOf(
    Object.entries(servers).flatMap(([name, those]) => [those].flat().map((said) => ({ name, said }))),
    nowMs,
  );
const lease = (more: Partial<Lease> = {}): Lease => ({
  holder: 'a',
  session: a.session,
  epoch: 1,
  takenMs: -settleMs,
  renewedMs: 0,
  expiresMs: leaseMs,
  move: null,
  ...more,
});

describe('process servers', () => {
  it('are offered while they are heard: who has the machine first, then by room', () => {
    const at = (nowMs: number): Servers =>
      site(
        {
          a: process({ address: 'a:1' }),
          b: process({ address: 'b:1', sessions: 1 }),
          c: process({ address: 'c:1', sessions: 0, busySinceMs: 0 }),
          d: process({ address: 'd:1', sessions: 0, heardMs: -leaseMs }),
        },
        nowMs,
      );
    const servers = at(1);
    expect(offered(undefined, servers, 1)).toEqual(['b:1', 'a:1', 'c:1']);
    expect(offered(lease(), servers, 1)).toEqual(['a:1', 'b:1', 'c:1']);
    expect(offered(lease({ holder: 'd' }), servers, 1)).toEqual(['b:1', 'a:1', 'c:1']);
    expect(offered(lease({ move: { to: 'c', untilMs: 9 } }), servers, 1)).toEqual(['c:1', 'b:1', 'a:1']);
    expect(offered(lease(), at(leaseMs), leaseMs)).toEqual([]);
  });

  it('are all their processes: sums for what they have, the fullest for whether there is room', () => {
    const [nowMs, hour] = [leaseMs, 3_600_000];
    const processes = [
      process({ heardMs: nowMs, address: 'new:1', inFlightBytes: 95, busySinceMs: 7, sessions: 3 }),
      process({ heardMs: nowMs - 1, inFlightBytes: 10, sessions: 1 }),
      process({ heardMs: 0, inFlightBytes: 99, sessions: 9, busySinceMs: 0 }),
    ];
    const both = { address: 'new:1', sessions: 4, inFlightBytes: 105, windowBytes: 200, heardMs: nowMs };
    const told = { ...both, processes: 2, busyProcesses: 1, fullest: 0.95 };
    expect(site({ a: processes }, nowMs).get('a')).toEqual(told);
    // All silent: what was said last, not what was said before.
    expect(site({ a: processes }, nowMs + hour).get('a')).toEqual(told);
    expect(site({ a: process({ windowBytes: 0 }) }, 0).get('a')).toMatchObject({ fullest: 0, processes: 1 });
    const servers = site({ a: processes, b: process({ heardMs: nowMs, sessions: 5 }) }, nowMs);
    expect(byRoom(servers, nowMs)).toEqual(['b', 'a']);
    const spread = site({ a: [process(), process()], b: process({ sessions: 3 }) }, 0);
    expect(byRoom(spread, 0)).toEqual(['b', 'a']);
  });

  it('are busy when their memory is full for a while, and no longer only well below', () => {
    const said = (inFlightBytes: number) => ({ address: 'x:1', sessions: 1, inFlightBytes, windowBytes: 100 });
    let now = heardNow(undefined, said(95), 0);
    expect(now.busySinceMs).toBe(0);
    now = heardNow(now, said(60), 3000);
    expect(now.busySinceMs).toBe(0);
    expect(heardNow(now, said(95), 3001 + leaseMs).busySinceMs).toBe(3001 + leaseMs);
    now = heardNow(now, said(50), 6000);
    expect(now.busySinceMs).toBeNull();
    expect(heardNow(now, said(60), 9000).busySinceMs).toBeNull();
  });

  it('that are busy for long lose one machine at a time, to one with room, and nothing wanders back', () => {
    const nowMs = busyMs;
    expect(isOverloaded(process({ busySinceMs: 0 }), nowMs)).toBe(true);
    expect(isOverloaded(process({ busySinceMs: 1 }), nowMs)).toBe(false);
    expect(isOverloaded(process(), nowMs)).toBe(false);
    const idle = process({ heardMs: nowMs });
    const machines = new Map([
      ['m1', lease()],
      ['m2', lease({ takenMs: -settleMs - 1 })],
      ['m3', lease({ takenMs: 0 })],
    ]);
    const of = (b: StoredProcess | readonly StoredProcess[], moved: Record<string, number> = {}, held = machines) => {
      const servers = site({ a: process({ busySinceMs: 0, heardMs: nowMs }), b }, nowMs);
      return relief('a', held, { servers, movedMs: (name) => moved[name], nowMs });
    };
    expect(of(idle)).toEqual({ machine: 'm2', to: 'b' });
    expect(of(idle, { a: 0, b: 0 })).toEqual({ machine: 'm2', to: 'b' });
    expect(of(idle, { a: 1 })).toBeNull();
    expect(of(idle, { b: 1 })).toBeNull();
    expect(of({ ...idle, inFlightBytes: 51 })).toBeNull();
    expect(of([idle, { ...idle, inFlightBytes: 51 }])).toBeNull();
    expect(of([idle, { ...idle, inFlightBytes: 50 }])).not.toBeNull();
    expect(of({ ...idle, heardMs: nowMs - leaseMs })).toBeNull();
    expect(of(idle, {}, new Map([['m1', lease()]]))).toBeNull();
    expect(of(idle, {}, new Map([...machines].map(([name, one]) => [name, { ...one, takenMs: 0 }])))).toBeNull();
  });
});

it('asks often enough that one lost answer loses no lease', () => {
  expect(2 * renewEveryMs + limits.leases.askMs).toBeLessThanOrEqual(leaseMs - stopEarlyMs);
});
