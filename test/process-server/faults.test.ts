import { describe, expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import { wireCodes } from '../../src/wire/codes.ts';
import { encodeFrame, frameType, noDisk } from '../../src/wire/frame.ts';
import type { FakeAgent } from './fakes.ts';
import { oneBlock, open, seqBase, theTarget, world } from './world.ts';

describe('violations by the agent', () => {
  const cases: [string, string, (agent: FakeAgent, leafKey: Uint8Array) => void][] = [
    ['a batch before its cycle', 'protocol-error', (agent, key) => agent.send(oneBlock(0, seqBase + 1, 0, key))],
    ['a cycle of another epoch', 'protocol-error', (agent) => agent.cycle(0, 2 * seqBase + 1)],
    ['a cycle for a disk not opened', 'protocol-error', (agent) => agent.cycle(5, seqBase + 1)],
    ['a disk opened twice', 'protocol-error', (agent) => agent.openDisk(0, 65_536)],
    ['a disk of odd size', 'bad-geometry', (agent) => agent.openDisk(1, 1000)],
    ['a point about a disk not opened', 'protocol-error', (agent) => agent.point([4])],
    ['a frame of an unknown type', 'protocol-error', (agent) => agent.send(Uint8Array.of(99, 0, 0, 0, 0, 0, 0, 0))],
    [
      'a frame of the other direction',
      'protocol-error',
      (agent) => agent.send(encodeFrame(frameType.durable, 0, new Uint8Array(16))),
    ],
    ['a second HELLO', 'protocol-error', (agent) => agent.hello('m1')],
    [
      'JSON that is none',
      'protocol-error',
      (agent) => agent.send(encodeFrame(frameType.point, noDisk, Buffer.from('{'))),
    ],
    [
      'the same layer twice',
      'protocol-error',
      (agent) => {
        agent.cycle(0, seqBase + 1);
        agent.cycle(0, seqBase + 1);
      },
    ],
    [
      'a batch out of turn',
      'protocol-error',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        agent.send(oneBlock(0, seqBase + 1, 1, key));
      },
    ],
    [
      'blocks that do not ascend across batches',
      'protocol-error',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        agent.send(oneBlock(0, seqBase + 1, 0, key, 9));
        agent.send(oneBlock(0, seqBase + 1, 1, key, 9));
      },
    ],
    [
      'a bit flipped on the way: retryable, and nothing of it reaches the target',
      'leaf-mismatch',
      (agent, key) => {
        agent.cycle(0, seqBase + 1);
        const frame = oneBlock(0, seqBase + 1, 0, key);
        frame[frame.byteLength - 1] = (frame[frame.byteLength - 1] ?? 0) ^ 1;
        agent.send(frame);
      },
    ],
  ];
  it.each(cases)('%s → %s', async (_, code, act) => {
    const here = world();
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    act(agent, leafKey);
    const closed = await agent.connection.closed;
    expect(agent.error?.code).toBe(code);
    expect(closed.code).toBeGreaterThanOrEqual(4000);
    const target = theTarget(here);
    await target.connection.closed;
    expect(target.faults).toEqual([]);
    if (code === 'leaf-mismatch') {
      expect(agent.error?.retryable).toBe(true);
      expect(target.events.some((event) => event.startsWith('SEALED'))).toBe(false);
    }
    expect(here.server.sessions).toEqual([]);
  });

  it('far more layers on their way than a cycle has → overloaded, come back; as many as you like one after the other', async () => {
    const { layersInFlightMax } = limits.wire;
    const before = layersInFlightMax + 2;
    const allThere = Promise.withResolvers<undefined>();
    const here = world({
      onSealed: (count) => {
        if (count === before + layersInFlightMax) allThere.resolve(undefined);
        return count <= before;
      },
    });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    const send = (seq: number): void => {
      agent.cycle(0, seq);
      agent.send(oneBlock(0, seq, 0, leafKey));
    };
    for (let each = 1; each <= before; each += 1) {
      send(seqBase + each);
      await agent.until(() => agent.durable.length === each);
    }
    for (let each = 1; each <= layersInFlightMax; each += 1) send(seqBase + before + each);
    await allThere.promise;
    expect(agent.over).toBe(false);
    send(seqBase + before + layersInFlightMax + 1);
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'overloaded', retryable: true });
  });

  it('a HELLO for another machine, or by another role → not-authorised, and no target is asked', async () => {
    const here = world();
    const wrongName = here.agent('m1');
    wrongName.hello('m2');
    const wrongRole = here.agent('m1', 'control');
    wrongRole.hello('m1');
    const wrongClaim = here.agent('m1');
    wrongClaim.hello('m1', { role: 'process-server' });
    for (const agent of [wrongName, wrongRole, wrongClaim]) {
      expect((await agent.connection.closed).code).toBe(wireCodes['not-authorised'].close);
      expect(agent.error).toMatchObject({ code: 'not-authorised', retryable: false });
    }
    expect(here.targets).toHaveLength(0);
  });

  it('no common version → version', async () => {
    for (const protocol of [[1], [3, 4]]) {
      const agent = world().agent('m1');
      agent.hello('m1', { protocol });
      await agent.connection.closed;
      expect(agent.error).toMatchObject({
        code: 'version',
        message: expect.stringContaining(protocol.join(', ')) as string,
      });
    }
  });
});

describe('when the target goes', () => {
  it('in the middle of a batch, the agent is told to come back, and nothing is left in flight', async () => {
    const here = world({
      onSealed: (count) => {
        if (count === 3) theTarget(here).connection.close(1006, 'gone');
        return count < 3;
      },
    });
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    for (let batch = 0; batch < 20; batch += 1) agent.send(oneBlock(0, seqBase + 1, batch, leafKey));
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
    expect(here.server.sessions).toEqual([]);
    expect(here.server.grantedBytes).toBe(0);
    expect(here.server.totals().get('m1')?.inFlightBytes).toBe(0);
  });

  it('or can not be reached, or refuses, its reason reaches the agent', async () => {
    const offline = world({}, { connectTarget: () => Promise.reject(new Error('connect ECONNREFUSED')) }).agent('m1');
    offline.hello('m1');
    await offline.connection.closed;
    expect(offline.error).toMatchObject({ code: 'unreachable', retryable: true });

    const refusing = world({
      onHello: () => undefined,
      opened: (message) => {
        throw new Problem('x', `no ${message.disk}`);
      },
    });
    const agent = refusing.agent('m1');
    agent.hello('m1');
    await agent.until(() => agent.frames.some(({ type }) => type === frameType.welcome));
    theTarget(refusing).error({ code: 'stale-epoch', message: 'epoch 3 rules', retryable: true });
    await agent.connection.closed;
    expect(agent.error).toEqual({ code: 'stale-epoch', message: 'epoch 3 rules', retryable: true });
  });

  it('or acknowledges what was never sent: its fault, not the agent’s', async () => {
    const here = world();
    const agent = here.agent('m1');
    const [leafKey] = await open(agent, 'm1');
    if (!leafKey) throw new Error('no leaf key');
    agent.cycle(0, seqBase + 1);
    await agent.batch(oneBlock(0, seqBase + 1, 0, leafKey));
    await agent.until(() => agent.durable.length === 1);
    theTarget(here).durable(0, seqBase + 1, 9, 0);
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
  });
});

describe('deadlines', () => {
  /** A clock whose one-shot timers fire when told. */
  const steered = (): { clock: Clock; fire: (ms: number) => void } => {
    const timers: { ms: number; run: () => void }[] = [];
    const after = (ms: number, run: () => void): { cancel: () => void } => {
      const timer = { ms, run };
      timers.push(timer);
      return { cancel: () => timers.splice(timers.indexOf(timer), 1) };
    };
    const fire = (ms: number): void => {
      for (const timer of timers.filter((each) => each.ms === ms)) timer.run();
    };
    return { clock: { ...systemClock, after, every: () => ({ cancel: () => undefined }) }, fire };
  };

  it('an agent that says nothing is closed', async () => {
    const { clock, fire } = steered();
    const agent = world({}, { clock }).agent('m1');
    fire(limits.wire.firstFrameMs);
    expect((await agent.connection.closed).code).toBe(wireCodes.timeout.close);
    expect(agent.error?.code).toBe('timeout');
  });

  it('a target that does not answer is given up, and the attempt is aborted', async () => {
    const { clock, fire } = steered();
    const aborted = Promise.withResolvers<unknown>();
    const connectTarget = (_: string, signal: AbortSignal): Promise<never> =>
      new Promise((_resolve, reject) =>
        signal.addEventListener('abort', () => {
          aborted.resolve(signal.reason);
          reject(new Error('aborted'));
        }),
      );
    const here = world({}, { clock, connectTarget });
    const agent = here.agent('m1');
    agent.hello('m1');
    await systemClock.turn();
    fire(limits.wire.firstFrameMs);
    expect(here.server.sessions[0]?.phase).toBe('connecting');
    fire(limits.wire.authenticationMs);
    await agent.connection.closed;
    expect(agent.error).toMatchObject({ code: 'unreachable', retryable: true });
    expect(await aborted.promise).toMatchObject({ code: 'unreachable' });
    expect(here.server.grantedBytes).toBe(0);
  });
});
