/**
 * A whole site on this machine for the quickstart and for whole-product tests: control, target, process server and agent as processes of
 * their own, enrolled with single-use keys as an operator would do it, everything below one directory.
 */
import { writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { RoleProcess, tidemarkOk } from './process.ts';

export interface SiteDisk {
  readonly name: string;
  readonly image: string;
}

export interface SiteOptions {
  readonly directory: string;
  readonly machine: string;
  readonly disks: readonly SiteDisk[];
  readonly intervalSeconds: number;
  readonly compression: 'lz4' | 'zstd' | 'off';
}

const anyPort = '127.0.0.1:0';

export class Site {
  readonly options: SiteOptions;
  readonly roles = new Map<'control' | 'target' | 'process-server' | 'agent', RoleProcess>();
  /** CPU seconds of instances that were replaced or ended. */
  readonly #spentCpu = new Map<string, number>();
  #controlUrl = '';
  #processServerPort = anyPort;
  #targetPort = anyPort;

  constructor(options: SiteOptions) {
    this.options = options;
  }

  dir(name: string): string {
    return path.join(this.options.directory, name);
  }

  get targetData(): string {
    return this.dir('target');
  }

  socketOf(disk: string): string {
    return this.dir(`${disk}.sock`);
  }

  get controlUrl(): string {
    return this.#controlUrl;
  }

  /** Control, then certificates for the other three. */
  async enrollAll(): Promise<void> {
    const control = this.#start('control', ['control', '--data', this.dir('control'), '--listen', anyPort]);
    this.#controlUrl = await control.where('control API');
    await this.#enroll('target', 'target-1');
    await this.#enroll('process-server', 'ps-1');
    await this.#enroll('agent', this.options.machine);
  }

  async #enroll(role: 'target' | 'process-server' | 'agent', name: string): Promise<void> {
    const operator = ['--control-url', this.#controlUrl, '--credentials', this.dir('control')];
    const key = (await tidemarkOk(['token', 'create', ...operator, '--role', role, '--name', name])).trim();
    const into = this.dir(`${role}.credentials`);
    await tidemarkOk(
      ['enroll', name, '--control-url', this.#controlUrl, '--role', role, '--key-file', '-', '--into', into],
      { input: key },
    );
  }

  async startTarget(): Promise<RoleProcess> {
    const args = [
      'target',
      '--data',
      this.targetData,
      '--listen',
      this.#targetPort,
      '--credentials',
      this.dir('target.credentials'),
    ];
    const role = this.#start('target', [...args, '--metrics', anyPort]);
    this.#targetPort = await role.where('process servers');
    return role;
  }

  async startProcessServer(): Promise<RoleProcess> {
    const args = [
      'process-server',
      '--data',
      this.dir('ps'),
      '--listen',
      this.#processServerPort,
      '--target',
      this.#targetPort,
    ];
    const role = this.#start('process-server', [
      ...args,
      '--credentials',
      this.dir('process-server.credentials'),
      '--metrics',
      anyPort,
    ]);
    this.#processServerPort = await role.where('agents');
    return role;
  }

  async startAgent(): Promise<RoleProcess> {
    const { machine, disks, intervalSeconds, compression } = this.options;
    const config = this.dir('agent.yaml');
    const lines = [
      'agent:',
      `  machine: ${machine}`,
      `  processServer: ${this.#processServerPort}`,
      `  intervalSeconds: ${intervalSeconds}`,
      `  compression: ${compression}`,
      '  disks:',
      ...disks.flatMap((disk) => [
        `    - name: ${disk.name}`,
        `      image: ${disk.image}`,
        `      socket: ${this.socketOf(disk.name)}`,
      ]),
    ];
    await writeFile(config, `${lines.join('\n')}\n`);
    const args = [
      'agent',
      '--config',
      config,
      '--data',
      this.dir('agent'),
      '--credentials',
      this.dir('agent.credentials'),
    ];
    const role = this.#start('agent', [...args, '--metrics', anyPort]);
    await role.running;
    return role;
  }

  role(name: 'control' | 'target' | 'process-server' | 'agent'): RoleProcess {
    const role = this.roles.get(name);
    if (!role) throw new Error(`${name} was not started`);
    return role;
  }

  /** All CPU seconds of a role so far, ended instances included. */
  async cpuSeconds(name: 'target' | 'process-server' | 'agent'): Promise<number> {
    return (this.#spentCpu.get(name) ?? 0) + (await this.role(name).cpuSeconds());
  }

  /** SIGKILL, and waits until it is gone. */
  async kill(name: 'target' | 'process-server' | 'agent'): Promise<void> {
    const role = this.role(name);
    this.#spentCpu.set(name, await this.cpuSeconds(name));
    role.signal('SIGKILL');
    await role.exited();
  }

  /** The value of an unlabelled metric, or the sum over its labels; undefined when absent. */
  async metric(name: 'target' | 'process-server' | 'agent', series: string): Promise<number | undefined> {
    const text = await fetch(await this.role(name).where('metrics')).then((response) => response.text());
    const values = text
      .split('\n')
      .filter((line) => line.startsWith(`${series} `) || line.startsWith(`${series}{`))
      .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
    return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0);
  }

  /** Ends everything that runs, agent first. */
  async stop(): Promise<void> {
    for (const name of ['agent', 'process-server', 'target', 'control'] as const) await this.roles.get(name)?.stop();
  }

  #start(name: 'control' | 'target' | 'process-server' | 'agent', args: readonly string[]): RoleProcess {
    const role = new RoleProcess(name, args, this.dir(`${name}.log`));
    this.roles.set(name, role);
    return role;
  }
}
