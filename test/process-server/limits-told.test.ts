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
  limits.tell(told);
  limits.tell(told);
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
