/**
 * A whole site on this machine for the quickstart and for whole-product tests: control, target, process server and agent as processes of
 * their own, enrolled with single-use keys as an operator would do it, everything below one directory.
 */
import { writeFile } from 'node:fs/promises';
import * as path from 'node:path';
import { commandOk, RoleProcess, tidemark, type CommandRunner } from './process.ts';

export interface SiteDisk {
  readonly name: string;
  readonly image: string;
  /** Captured by comparison, declared frozen or not, instead of served. */
  readonly scan?: 'frozen' | 'live';
}

/** Where a role runs when that is not simply this machine. */
export interface Place {
  /** Address it listens on and is reached at. */
  readonly address: string;
  /** Command that starts it there, by becoming it. */
  readonly within: readonly string[];
}

export interface SiteOptions {
  readonly directory: string;
  readonly machine: string;
  readonly disks: readonly SiteDisk[];
  readonly intervalSeconds: number;
  readonly compression: 'lz4' | 'zstd' | 'off';
  /** Whether the roles report to control; without, `tidemark status` knows nothing. Default false. */
  readonly reporting?: boolean;
  /** Roles that run elsewhere. */
  readonly places?: Partial<Record<RoleName, Place>>;
  /** Runs the operator's commands. Default: the compiled command line. */
  readonly run?: CommandRunner;
}

export type RoleName = 'control' | 'target' | 'process-server' | 'agent';
type EnrolledRole = Exclude<RoleName, 'control'>;

export class Site {
  readonly options: SiteOptions;
  readonly roles = new Map<RoleName, RoleProcess>();
  /** Every process this site ever started. */
  readonly #started: RoleProcess[] = [];
  /** CPU seconds of instances that were replaced or ended. */
  readonly #spentCpu = new Map<string, number>();
  #controlUrl = '';
  #processServerPort: string;
  #targetPort: string;

  constructor(options: SiteOptions) {
    this.options = options;
    this.#processServerPort = this.#anyPort('process-server');
    this.#targetPort = this.#anyPort('target');
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

  /** `host:port` of the running process server and target, for who wants to speak to them. */
  get processServerAddress(): string {
    return this.#processServerPort;
  }

  get targetAddress(): string {
    return this.#targetPort;
  }

  /** What an operator's command needs to reach control. */
  get operator(): readonly string[] {
    return ['--control-url', this.#controlUrl, '--credentials', this.dir('control')];
  }

  /** Control, then certificates for the other three. */
  async enrollAll(): Promise<void> {
    await this.startControl();
    await this.enroll('target', 'target-1');
    await this.enroll('process-server', 'ps-1');
    await this.enroll('agent', this.options.machine);
  }

  async startControl(): Promise<RoleProcess> {
    const listen = this.#controlUrl === '' ? this.#anyPort('control') : new URL(this.#controlUrl).host;
    const args = ['control', '--data', this.dir('control'), '--listen', listen, '--metrics', this.#anyPort('control')];
    const control = this.#start('control', args);
    this.#controlUrl = await control.where('control API');
    return control;
  }

  /** Certificate and key of a role, in `<into>`; by default where the role looks for them. */
  async enroll(role: EnrolledRole, name: string, into = this.dir(`${role}.credentials`)): Promise<string> {
    const run = this.options.run ?? tidemark;
    const key = (await commandOk(run, ['token', 'create', ...this.operator, '--role', role, '--name', name])).trim();
    const words = ['enroll', name, '--control-url', this.#controlUrl, '--role', role, '--key-file', '-'];
    await commandOk(run, [...words, '--into', into], { input: key });
    return into;
  }

  async startTarget(): Promise<RoleProcess> {
    const words = ['target', '--data', this.targetData, '--listen', this.#targetPort];
    const role = this.#start('target', [...words, ...this.#common('target')]);
    this.#targetPort = await role.where('process servers');
    return role;
  }

  async startProcessServer(): Promise<RoleProcess> {
    const words = ['process-server', '--data', this.dir('ps'), '--listen', this.#processServerPort];
    const role = this.#start('process-server', [
      ...words,
      '--target',
      this.#targetPort,
      ...this.#common('process-server'),
    ]);
    this.#processServerPort = await role.where('agents');
    return role;
  }

  /** Waits until it runs; `settings` replace or add to those of the site. */
  async startAgent(settings: Readonly<Record<string, string | number>> = {}): Promise<RoleProcess> {
    const config = await this.writeAgentConfig('agent.yaml', settings);
    const words = ['agent', '--config', config, '--data', this.dir('agent')];
    const role = this.#start('agent', [...words, ...this.#common('agent')]);
    await role.running;
    return role;
  }

  /** Configuration of this site's agent as a file, with some settings changed. */
  async writeAgentConfig(name: string, settings: Readonly<Record<string, string | number>> = {}): Promise<string> {
    const { machine, disks, intervalSeconds, compression } = this.options;
    const own = { machine, processServer: this.#processServerPort, intervalSeconds, compression, ...settings };
    const lines = [
      'agent:',
      ...Object.entries(own).map(([key, value]) => `  ${key}: ${value}`),
      '  disks:',
      ...disks.flatMap((disk) => [
        `    - name: ${disk.name}`,
        `      image: ${disk.image}`,
        ...(disk.scan === undefined
          ? [`      socket: ${this.socketOf(disk.name)}`]
          : ['      capture: scan', `      frozen: ${disk.scan === 'frozen'}`]),
      ]),
    ];
    await writeFile(this.dir(name), `${lines.join('\n')}\n`);
    return this.dir(name);
  }

  role(name: RoleName): RoleProcess {
    const role = this.roles.get(name);
    if (!role) throw new Error(`${name} was not started`);
    return role;
  }

  /** All CPU seconds of a role so far, ended instances included. */
  async cpuSeconds(name: EnrolledRole): Promise<number> {
    return (this.#spentCpu.get(name) ?? 0) + (await this.role(name).cpuSeconds());
  }

  /** SIGKILL, and waits until it is gone. */
  async kill(name: RoleName): Promise<void> {
    const role = this.role(name);
    if (name !== 'control') this.#spentCpu.set(name, await this.cpuSeconds(name));
    role.signal('SIGKILL');
    await role.exited();
  }

  /** The value of a metric (`name{all="labels"}`), or the sum over its labels (`name`); undefined when absent. */
  async metric(name: EnrolledRole, series: string): Promise<number | undefined> {
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
    await Promise.all(this.#started.map((role) => role.stop()));
  }

  #anyPort(name: RoleName): string {
    return `${this.options.places?.[name]?.address ?? '127.0.0.1'}:0`;
  }

  #common(role: EnrolledRole): string[] {
    const words = ['--credentials', this.dir(`${role}.credentials`), '--metrics', this.#anyPort(role)];
    return this.options.reporting === true ? [...words, '--control-url', this.#controlUrl] : words;
  }

  #start(name: RoleName, args: readonly string[]): RoleProcess {
    const role = new RoleProcess(name, args, this.dir(`${name}.log`), this.options.places?.[name]?.within);
    this.roles.set(name, role);
    this.#started.push(role);
    return role;
  }
}
