import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { createLogger, type LogFields, type LogLevel } from '../../src/observe/logger.ts';

function captured(level: LogLevel = 'debug', fields: LogFields = {}) {
  const lines: string[] = [];
  const logger = createLogger({
    level,
    fields,
    clock: { ...systemClock, wallMs: () => 1234 },
    sink: { write: (line) => lines.push(line) },
  });
  return { logger, lines, last: () => JSON.parse(lines.at(-1) ?? '{}') as Record<string, unknown> };
}

describe('logger', () => {
  it('writes one JSON object per line, with level, time, own and inherited fields', () => {
    const { logger, lines, last } = captured('debug', { role: 'agent' });
    logger.child({ machine: 'm1' }).info({ bytes: 5n, disk: 'd0' }, 'cut made');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/\}\n$/);
    expect(last()).toEqual({
      level: 'info',
      time: 1234,
      role: 'agent',
      machine: 'm1',
      bytes: '5',
      disk: 'd0',
      message: 'cut made',
    });
  });

  it('keeps quiet below its level', () => {
    const { logger, lines } = captured('warn');
    logger.info({}, 'no');
    logger.debug({}, 'no');
    logger.error({}, 'yes');
    expect(lines).toHaveLength(1);
  });

  it('never writes a secret, wherever it hides', () => {
    const { logger, lines } = captured();
    const secrets = ['s3cr3t-leaf', 's3cr3t-token', 'AAAABBBBCCCC', 'c2VjcmV0', 'MIIsecret'];
    const pem = `-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----`;
    logger.info({ leafKey: 's3cr3t-leaf', deep: { list: [{ operatorToken: 's3cr3t-token' }] } }, 'opened');
    logger.info({ text: 'use tmk1.AAAABBBBCCCC.00ff' }, 'key tmk1.AAAABBBBCCCC.00ff');
    logger
      .child({ header: 'Bearer c2VjcmV0' })
      .warn({ headers: { authorization: 'Bearer c2VjcmV0' } }, 'Bearer c2VjcmV0');
    logger.error({ error: new Error(`bad ${pem}`, { cause: new Problem('x', 'tmk1.AAAABBBBCCCC.00') }) }, pem);
    const all = lines.join('');
    for (const secret of secrets) expect(all).not.toContain(secret);
    expect(lines).toHaveLength(4);
  });

  it('writes the length of bytes, never the bytes', () => {
    const { logger, last } = captured();
    logger.info({ payload: Buffer.from('hello'), wide: new BigUint64Array(2) }, 'x');
    expect(last()).toMatchObject({ payload: '[5 bytes]', wide: '[16 bytes]' });
  });

  it('tells a problem by code and remedy, a bug by its stack', () => {
    const { logger, last } = captured();
    logger.error({ error: new Problem('locked', 'held', { remedy: 'stop the other one' }) }, 'x');
    expect(last()['error']).toEqual({ code: 'locked', message: 'held', remedy: 'stop the other one' });
    logger.error({ error: new Error('boom') }, 'x');
    expect(last()['error']).toMatchObject({
      message: 'boom',
      stack: expect.stringContaining('logger.test') as unknown,
    });
  });

  it('cuts what has no end', () => {
    const { logger, lines } = captured();
    const loop: Record<string, unknown> = {
      long: 'x'.repeat(1e6),
      many: Array.from({ length: 1e5 }, (_, index) => index),
    };
    loop['self'] = loop;
    logger.info(loop, 'x');
    expect(lines[0]?.length).toBeLessThan(100_000);
  });
});
