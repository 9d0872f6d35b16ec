/** The state's clock is set back: PostgreSQL was moved to another host, or NTP put an hour right. Who is gone then must not hold a machine for that hour. */
import { describe, expect, it } from 'vitest';
import { epochMax, type Lease, type StoredProcess } from '../../src/control/lease-schemas.ts';
import { decideLease, type Asker, type Decision } from '../../src/control/leases.ts';
import { byRoom } from '../../src/control/placement.ts';
import { heardNow, serversOf } from '../../src/control/servers.ts';
import { limits } from '../../src/limits.ts';

const { leaseMs, renewEveryMs, silentMs, moveMs } = limits.leases;
const hourMs = 3_600_000;
const a: Asker = { name: 'a', session: 'a'.repeat(32) };
const b: Asker = { name: 'b', session: 'b'.repeat(32) };

/** A machine's lease, and the state's clock. */
class Machine {
  lease: Lease | undefined;
  nowMs = 10 * hourMs;
  heard = (name: string): boolean => name !== 'gone';

  ask(asker: Asker, want: 'take' | 'keep', epoch = 0): Decision['answer'] {
    const world = { nowMs: this.nowMs, heard: this.heard };
    const { answer, lease } = decideLease(this.lease, { machine: 'm', want, epoch }, asker, world);
    this.lease = lease ?? this.lease;
    return answer;
  }
}

describe('a state whose clock was set back', () => {
  it('frees what one that is gone held within the time of a lease, not after the hour', () => {
    const machine = new Machine();
    machine.ask(a, 'take');
    machine.nowMs -= hourMs;
    expect(machine.ask(b, 'take')).toMatchObject({ held: false, holder: 'a', freeInMs: leaseMs });
    machine.nowMs += silentMs + 1;
    expect(machine.ask(b, 'take')).toMatchObject({ held: false, silent: true, freeInMs: leaseMs - silentMs - 1 });
    machine.nowMs += leaseMs - silentMs;
    expect(machine.ask(b, 'take')).toMatchObject({ held: true, epoch: 2 });
  });

  it('takes nothing from one that renews', () => {
    const machine = new Machine();
    machine.ask(a, 'take');
    machine.nowMs -= hourMs;
    for (let round = 0; round < 10; round += 1) {
      expect(machine.ask(b, 'take')).toMatchObject({ held: false, holder: 'a' });
      machine.nowMs += renewEveryMs;
      expect(machine.ask(a, 'keep', 1)).toMatchObject({ held: true, epoch: 1 });
    }
  });

  it('leaves a lease as it is for one whose answer is of a little earlier', () => {
    const machine = new Machine();
    machine.ask(a, 'take');
    const { lease } = machine;
    machine.nowMs -= leaseMs - 1;
    machine.ask(b, 'take');
    expect(machine.lease).toBe(lease);
  });

  it('forgets a move that was to be over long ago', () => {
    const machine = new Machine();
    machine.ask(a, 'take');
    if (machine.lease) machine.lease = { ...machine.lease, move: { to: 'b', untilMs: machine.nowMs + moveMs } };
    expect(machine.ask(a, 'take')).toMatchObject({ held: false, holder: 'b' });
    machine.nowMs -= hourMs;
    expect(machine.ask(a, 'keep', 1)).toMatchObject({ held: true });
  });

  it('offers only process servers that were heard since', () => {
    const load = { address: 'x:1', sessions: 0, inFlightBytes: 95, windowBytes: 100 };
    const nowMs = 10 * hourMs;
    const early = heardNow(undefined, load, nowMs);
    const offeredNow = (said: StoredProcess) =>
      byRoom(serversOf([{ name: 'a', said }], nowMs - hourMs), nowMs - hourMs);
    expect(offeredNow(early)).toEqual([]);
    const since = heardNow(early, load, nowMs - hourMs);
    expect(since).toMatchObject({ busySinceMs: nowMs - hourMs });
    expect(offeredNow(since)).toEqual(['a']);
  });
});

it('a machine whose epochs are used up is refused, and its record stays readable', () => {
  const machine = new Machine();
  expect(machine.ask(a, 'take', epochMax - 1)).toMatchObject({ held: true, epoch: epochMax });
  machine.nowMs += 2 * leaseMs;
  expect(machine.ask(b, 'take')).toMatchObject({ held: false });
  expect(machine.lease?.epoch).toBe(epochMax);
});
