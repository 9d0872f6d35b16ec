import { expect, it } from 'vitest';
import { processServerConfig } from '../../src/config.ts';
import { LimitsTold } from '../../src/main/limits-told.ts';
import type { LogFields, Logger } from '../../src/observe/logger.ts';
import { SteppedClock } from '../kit/stepped-clock.ts';

it('limits come from the configuration and from control; one of a version that is not understood is said, and limits nothing', async () => {
  const said: [string, LogFields][] = [];
  const say = (fields: LogFields, message: string): void => void said.push([message, fields]);
  const logger: Logger = { debug: say, info: say, warn: say, error: say, child: () => logger };
  const clock = new SteppedClock();
  const text = 'processServer: { target: t, throttle: 8Mb/s }';
  const config = processServerConfig({ file: { name: 'c.yaml', text }, environment: {}, flags: {} });
  const limits = new LimitsTold(clock, config, logger);
  const one = { policy: 'p', ofPolicy: null, timeZone: 'UTC', priority: 'normal' } as const;
  const told = [
    { ...one, machine: 'm1', own: '8Mb/s' },
    { ...one, machine: 'm2', own: 'at full moon 8Mb/s' },
  ];
  limits.tell({ throttle: told, ownThrottle: null });
  limits.tell({ throttle: told, ownThrottle: null });
  expect(said.map(([message, { machine }]) => [message, machine])).toEqual([
    ['a limit is not understood here, and not kept to', 'm2'],
    ['limits and priorities of machines changed', undefined],
  ]);
  const given = new Map<string, number>();
  for (const machine of ['m1', 'm2']) {
    limits.throttle.agent(machine, (bytes) => given.set(machine, (given.get(machine) ?? 0) + bytes)).offer(8e6);
  }
  expect([...given]).toEqual([['m2', 8e6]]);
  let passed = false;
  void limits.throttle
    .egress('m2')
    .take(4e6, 'delta')
    .then(() => (passed = true));
  await clock.pass(1_800);
  expect(passed).toBe(false);
  await clock.pass(300);
  expect(passed).toBe(true);
});

it('its own limit is what control says, above that of the configuration or below, and that again when control says nothing more', async () => {
  const said: [string, LogFields][] = [];
  const say = (fields: LogFields, message: string): void => void said.push([message, fields]);
  const logger: Logger = { debug: say, info: say, warn: say, error: say, child: () => logger };
  const clock = new SteppedClock();
  const text = 'processServer: { target: t, throttle: 8Mb/s }';
  const limits = new LimitsTold(
    clock,
    processServerConfig({ file: { name: 'c.yaml', text }, environment: {}, flags: {} }),
    logger,
  );
  const tell = (throttle: string | null): void =>
    limits.tell({ throttle: [], ownThrottle: throttle === null ? null : { throttle, timeZone: 'UTC' } });
  const egress = limits.throttle.egress('m1');
  /** Bytes per second over 10 s, in requests of 100 kB. */
  const rate = async (): Promise<number> => {
    let passed = 0;
    let over = false;
    const send = async (): Promise<void> => {
      while (!over && passed < 100e6) {
        await egress.take(100_000, 'delta');
        passed += 100_000;
      }
    };
    const sending = send();
    await clock.pass(10_000);
    over = true;
    tell('unlimited');
    await clock.pass(1_000);
    await sending;
    return passed / 10;
  };
  const near = (measured: number, wanted: number): void => {
    expect(measured / wanted).toBeGreaterThan(0.95);
    expect(measured / wanted).toBeLessThan(1.05);
  };
  near(await rate(), 1e6);
  tell('16Mb/s');
  near(await rate(), 2e6);
  tell('4Mb/s');
  near(await rate(), 0.5e6);
  tell('at full moon 8Mb/s');
  near(await rate(), 1e6);
  tell(null);
  near(await rate(), 1e6);
  // Who waits when the limit goes waits no longer.
  tell('80kb/s');
  let passed = false;
  void egress.take(4e6, 'delta').then(() => (passed = true));
  await clock.pass(5_000);
  expect(passed).toBe(false);
  tell('unlimited');
  await clock.pass(300);
  expect(passed).toBe(true);
  expect(said.filter(([message]) => message.includes('understood'))).toHaveLength(1);
  expect(said.find(([message]) => message === 'its own limit changed')?.[1]).toEqual({
    rates: 'unlimited',
    setBy: 'control',
  });
});
