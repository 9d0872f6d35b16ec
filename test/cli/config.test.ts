import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  agentConfig,
  clientConfig,
  controlConfig,
  processServerConfig,
  targetConfig,
  upConfig,
} from '../../src/config.ts';
import type { ConfigSources } from '../../src/config/sources.ts';
import { keysOf, sections } from '../../src/config/tables.ts';
import { isProblem, type Problem } from '../../src/kit/problem.ts';

function from(
  text: string,
  environment: Record<string, string> = {},
  flags: ConfigSources['flags'] = {},
): ConfigSources {
  return { file: { name: 'tidemark.yaml', text }, environment, flags };
}

function problemOf(run: () => unknown): Problem {
  try {
    run();
  } catch (error) {
    if (isProblem(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const agentYaml = `
data: /srv/tidemark
agent:
  machine: web1
  processServer: backup.example
  disks:
    - { name: vda, image: /images/web1.raw, socket: /run/web1.sock }
    - { name: vdb, image: /images/web1-data.raw, port: 10809 }
`;

describe('sources', () => {
  it('file < environment < flags', () => {
    const file = 'target: { listen: "1.1.1.1:1" }';
    const environment = { TIDEMARK_TARGET_LISTEN: '2.2.2.2:2' };
    expect(targetConfig({ environment: {}, flags: {} }).listen).toEqual({ host: '0.0.0.0', port: 9444 });
    expect(targetConfig(from(file)).listen).toEqual({ host: '1.1.1.1', port: 1 });
    expect(targetConfig(from(file, environment)).listen).toEqual({ host: '2.2.2.2', port: 2 });
    expect(targetConfig(from(file, environment, { target: { listen: '3.3.3.3:3' } })).listen).toEqual({
      host: '3.3.3.3',
      port: 3,
    });
    expect(targetConfig(from(file, environment, { target: { listen: undefined } })).listen.port).toBe(2);
  });

  it('take one process server or several, and the state of control by its address', () => {
    const places = [
      { host: 'a', port: 9443 },
      { host: 'b', port: 1 },
    ];
    const agent = (text: string) => from(`agent: { machine: m, disks: [{ name: d, image: /i, port: 1 }], ${text} }`);
    expect(agentConfig(agent('processServer: "a, b:1"')).processServer).toEqual(places);
    expect(agentConfig(agent('processServer: [a, "b:1"]')).processServer).toEqual(places);
    expect(problemOf(() => agentConfig(agent('processServer: "a,,b"'))).message).toContain('is not an address');
    const state = 'postgres://ada@db/tidemark';
    expect(controlConfig(from(`control: { state: "${state}", statePassword: secret }`))).toMatchObject({
      state,
      statePassword: process.cwd() + '/secret',
    });
    expect(problemOf(() => controlConfig(from('control: { state: "mysql://x" }'))).message).toContain('PostgreSQL');
    const server = from('processServer: { target: t, advertise: ps.example, leases: false }');
    expect(processServerConfig(server)).toMatchObject({ advertise: { host: 'ps.example', port: 0 }, leases: false });
  });

  it('give each role directories of its own below the common one', () => {
    const sources = from('data: /srv/tidemark');
    expect(targetConfig(sources)).toMatchObject({
      data: '/srv/tidemark/target',
      vault: '/srv/tidemark/target/vault.key',
      credentials: '/srv/tidemark/target/credentials',
      logLevel: 'info',
      metrics: { host: '127.0.0.1', port: 9464 },
    });
    expect(controlConfig(sources)).toMatchObject({
      data: '/srv/tidemark/control',
      listen: { host: '127.0.0.1', port: 8443 },
    });
    expect(targetConfig(from('target: { data: /elsewhere }')).vault).toBe('/elsewhere/vault.key');
    expect(clientConfig(sources)).toEqual({
      controlUrl: 'https://127.0.0.1:8443',
      credentials: '/srv/tidemark/control',
    });
  });

  it('describe an agent and its disks', () => {
    expect(agentConfig(from(agentYaml))).toMatchObject({
      data: '/srv/tidemark/agent',
      machine: 'web1',
      processServer: [{ host: 'backup.example', port: 9443 }],
      disks: [
        { name: 'vda', image: '/images/web1.raw', socket: '/run/web1.sock' },
        { name: 'vdb', image: '/images/web1-data.raw', port: 10_809 },
      ],
    });
    const environment = {
      TIDEMARK_AGENT_MACHINE: 'db1',
      TIDEMARK_AGENT_PROCESS_SERVER: '[fd00::1]:9999',
      TIDEMARK_AGENT_DISKS: '[{name: sda, image: /dev/sdb, port: 0}]',
      TIDEMARK_AGENT_INTERVAL_SECONDS: '2',
    };
    expect(agentConfig({ environment, flags: {} })).toMatchObject({
      machine: 'db1',
      processServer: [{ host: 'fd00::1', port: 9999 }],
      disks: [{ name: 'sda', image: '/dev/sdb', port: 0 }],
      intervalSeconds: 2,
    });
  });

  it('describe a disk that is scanned, and what an agent alone decides by itself', () => {
    const disks = '[{ name: vda, image: /a, capture: scan }, { name: vdb, image: /b, capture: scan, frozen: "true" }]';
    const own = 'resyncWindow: 22:00-06:00, resyncTimeZone: Asia/Kolkata, resyncAtDirtyPercent: never';
    const config = agentConfig(
      from(`agent: { machine: a, processServer: b, disks: ${disks}, ${own}, memoryMiB: 256 }`),
    );
    expect(config).toMatchObject({
      disks: [
        { capture: 'scan', frozen: false },
        { capture: 'scan', frozen: true },
      ],
      resyncWindow: '22:00-06:00',
      resyncTimeZone: 'Asia/Kolkata',
      resyncAtDirtyPercent: 'never',
      memoryMiB: 256,
    });
    const flags = { agent: { resyncWindow: 'none', cpuPercent: '150', retryMinutes: '1,5' } };
    expect(agentConfig(from(agentYaml, {}, flags))).toMatchObject({
      ...{ resyncWindow: null, cpuPercent: 150, retryMinutes: [1, 5] },
    });
    const { retryMinutes } = agentConfig(from(`${agentYaml}\n  retryMinutes: [3]`));
    expect(retryMinutes).toEqual([3]);
  });

  it('make `up` feed its own target', () => {
    const config = upConfig(from('data: /srv/t\ntarget: { listen: 9555 }'));
    expect(config.data).toBe('/srv/t');
    expect(config.processServer).toMatchObject({
      target: { host: '127.0.0.1', port: 9555 },
      data: '/srv/t/process-server',
    });
    expect(config.control.data).toBe('/srv/t/control');
  });
});

describe('refusals name the key and the remedy', () => {
  it.each([
    ['tarhet: {}', 'unknown key "tarhet"', '"target"'],
    ['target: { lisen: 1 }', 'target: unknown key "lisen"', '"listen"'],
    // A section that this role does not use is checked all the same.
    ['agent: { machne: a }', 'agent: unknown key "machne"', '"machine"'],
    ['loglevel: info', 'unknown key "loglevel"', '"logLevel"'],
    ['logLevel: loud', 'logLevel', 'TIDEMARK_LOG_LEVEL'],
    ['target: { listen: "a:b:c" }', 'not an address', '--listen'],
    ['target: { listen: ":70000" }', 'not an address', 'TIDEMARK_TARGET_LISTEN'],
    ['target: { listen: "" }', 'not an address', 'target.listen'],
    ['target: [1]', 'expected keys and values', 'key: value'],
    ['- 1', 'expected keys and values', 'key: value'],
    ['a: [', 'not YAML', 'mend'],
    ['controlUrl: http://x', 'https', '--control-url'],
  ])('%s', (text, message, remedy) => {
    const problem = problemOf(() => targetConfig(from(text)));
    expect(problem.code).toBe('bad-config');
    expect(problem.message).toContain(message);
    expect(problem.remedy).toContain(remedy);
  });

  it('in the environment', () => {
    const problem = problemOf(() => targetConfig({ environment: { TIDEMARK_TARGET_VOLT: 'x' }, flags: {} }));
    expect(problem).toMatchObject({ code: 'bad-config', remedy: 'did you mean TIDEMARK_TARGET_VAULT?' });
    expect(() =>
      targetConfig({ environment: { TIDEMARK_TEST_SOAK: '1', TIDEMARK_CONFIG: 'x' }, flags: {} }),
    ).not.toThrow();
  });

  it('what is required and not set', () => {
    expect(problemOf(() => processServerConfig(from(''))).message).toBe('processServer.target is not set');
    expect(problemOf(() => processServerConfig(from(''))).remedy).toContain('TIDEMARK_PROCESS_SERVER_TARGET');
    expect(problemOf(() => processServerConfig(from('processServer: { target: ":9444" }'))).message).toContain(
      'not an address',
    );
    expect(problemOf(() => agentConfig(from('agent: { machine: a, processServer: b }'))).remedy).toContain('--disk');
  });

  it.each([
    ['{ name: vda, image: /a }', 'either a socket or a port'],
    ['{ name: vda, image: /a, capture: scan, port: 1 }', 'neither socket nor port'],
    ['{ name: vda, image: /a, capture: scn }', 'disks.0.capture'],
    ['{ name: vda, image: /a, port: 1, frozen: true }', 'only a disk with capture "scan"'],
    ['{ name: vda, image: /a, capture: scan, frozen: maybe }', 'not true or false'],
    ['{ name: vda, image: /a, port: 1, socket: /b }', 'either a socket or a port'],
    ['{ name: vda, imag: /a, port: 1 }', 'not set'],
    ['{ name: vda, image: /a, port: 1, size: 3 }', 'unknown key "size"'],
    ['{ name: ../x, image: /a, port: 1 }', 'a name is'],
    ['{ name: vda, image: /a, port: 1 }, { name: vda, image: /b, port: 2 }', 'same name'],
  ])('of a disk: %s', (disks, message) => {
    const problem = problemOf(() => agentConfig(from(`agent: { machine: a, processServer: b, disks: [${disks}] }`)));
    expect(problem.code).toBe('bad-config');
    expect(problem.message).toContain(message);
  });

  it.each([
    ['resyncWindow', '22-6', 'did you mean "22:00-06:00"?', '--resync-window'],
    ['resyncTimeZone', 'Europe/Berln', 'did you mean "Europe/Berlin"?', 'TIDEMARK_AGENT_RESYNC_TIME_ZONE'],
    ['resyncAtDirtyPercent', '101', '<=100', '--resync-at-dirty-percent'],
    ['resyncAtDirtyPercent', 'often', 'from 1 to 100 nor "never"', 'agent.resyncAtDirtyPercent'],
    ['appConsistentHours', '13', '<=12', '--app-consistent-hours'],
    ['cpuPercent', '0', '>=1', 'TIDEMARK_AGENT_CPU_PERCENT'],
    ['memoryMiB', 'much', 'not a whole number', 'TIDEMARK_AGENT_MEMORY_MIB'],
    ['retryMinutes', '1,0', 'pauses of 1 to 1440 minutes', 'TIDEMARK_AGENT_RETRY_MINUTES'],
    ['retryMinutes', '', 'not a list of 1 to 32 pauses', '--retry-minutes'],
  ])('of an agent: %s %s', (key, value, message, remedy) => {
    const problem = problemOf(() => agentConfig(from(agentYaml, {}, { agent: { [key]: value } })));
    expect(problem.code).toBe('bad-config');
    expect(problem.message).toContain(`agent.${key}: `);
    expect(problem.message).toContain(message);
    expect(problem.remedy).toContain(remedy);
  });

  it.each([
    ['shards', '0', '>=1', '--shards'],
    ['shards', '17', '<=16', 'TIDEMARK_PROCESS_SERVER_SHARDS'],
    ['spoolGiB', '-1', 'not a whole number', '--spool-gib'],
    ['spoolGiB', '16G', 'not a whole number', 'TIDEMARK_PROCESS_SERVER_SPOOL_GIB'],
    ['leases', 'maybe', 'not true or false', '--leases'],
    ['advertise', ':0', 'not an address', 'processServer.advertise'],
    ['throttle', '0Mb/s', 'lets nothing pass', '--throttle'],
    ['throttleTimeZone', 'Europe/Berln', 'did you mean "Europe/Berlin"?', '--throttle-time-zone'],
  ])('of a process server: %s %s', (key, value, message, remedy) => {
    const flags = { processServer: { target: 'backup.example', [key]: value } };
    const problem = problemOf(() => processServerConfig({ environment: {}, flags }));
    expect(problem.code).toBe('bad-config');
    expect(problem.message).toContain(`processServer.${key}: `);
    expect(problem.message).toContain(message);
    expect(problem.remedy).toContain(remedy);
  });

  it.each(['4095', '4097', '65537', '2097152', '1e5', '-1'])('block size %s', (blockSize) => {
    const flags = { agent: { blockSize } };
    expect(problemOf(() => agentConfig(from(agentYaml, {}, flags))).message).toContain('agent.blockSize');
  });
});

it('any YAML is either a configuration or a bad-config', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.constantFrom('data', 'target', 'agent', 'logLevel', 'x'), fc.jsonValue()), (value) => {
      const text = JSON.stringify(value);
      try {
        targetConfig(from(text));
      } catch (error) {
        expect(error).toMatchObject({ name: 'Problem', code: 'bad-config' });
      }
    }),
    { numRuns: 300 },
  );
});

it('every key has help and a name of its own', () => {
  const keys = (['common', ...sections] as const).flatMap((section) => keysOf(section));
  expect(new Set(keys.map(({ variable }) => variable)).size).toBe(keys.length);
  expect(keys.filter(({ help }) => help === '')).toEqual([]);
});
