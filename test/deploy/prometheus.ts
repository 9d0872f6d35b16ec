/**
 * A Prometheus of our own for one test: on loopback, in a directory that goes with it, scraping what it is told to. It reads the files of `deploy/` as
 * they are but for what the clock has to do with: it scrapes and evaluates four times a second, and every `for` of an alert is 0, so that an
 * alert fires at the first evaluation its expression holds. Expressions stay as they are.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { endWithUs } from '../../scripts/demo/process.ts';
import { systemClock } from '../../src/kit/clock.ts';
import { readRules, readScrapes } from './deployed.ts';

const scrapeMs = 250;

export interface FiringAlert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly state: 'pending' | 'firing';
}

interface Answer<T> {
  readonly status: 'success' | 'error';
  readonly error?: string;
  readonly data: T;
}

/** A port that was free a moment ago: Prometheus does not say which one it got. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

export class Prometheus {
  readonly #directory: string;
  readonly #child: ChildProcess;
  readonly #url: string;
  readonly #startedMs = Date.now();

  private constructor(directory: string, port: number) {
    this.#directory = directory;
    this.#url = `http://127.0.0.1:${port}`;
    const file = (name: string): string => path.join(directory, name);
    const words = [`--config.file=${file('prometheus.yml')}`, `--storage.tsdb.path=${file('data')}`];
    this.#child = spawn(
      'prometheus',
      [...words, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn', '--web.enable-lifecycle'],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    endWithUs(this.#child);
    this.#child.stderr?.on('data', (chunk: Buffer) => (this.#log += chunk.toString()));
    this.#child.on('error', (error) => (this.#log += error.message));
  }
  #log = '';

  /** Resolves when it answers; it scrapes nothing before `scrape`. */
  static async start(): Promise<Prometheus> {
    const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-prometheus-'));
    const { groups } = readRules();
    const rules = groups.map((group) => ({ ...group, rules: group.rules.map((rule) => ({ ...rule, for: '0s' })) }));
    await writeFile(path.join(directory, 'alerts.yml'), JSON.stringify({ groups: rules }));
    await writeConfig(directory, new Map());
    const prometheus = new Prometheus(directory, await freePort());
    await prometheus.#ready();
    return prometheus;
  }

  /** From now on these, by job: host and port of each. */
  async scrape(targets: ReadonlyMap<string, string>): Promise<void> {
    await writeConfig(this.#directory, targets);
    const answer = await fetch(`${this.#url}/-/reload`, { method: 'POST' });
    if (!answer.ok) throw new Error(`reload: ${await answer.text()}${this.#log}`);
  }

  /** How many series the query gives at any moment since the start, or only now. */
  async seriesOf(query: string, { now }: { readonly now: boolean }): Promise<number> {
    const range = {
      start: String(this.#startedMs / 1000),
      end: String(Date.now() / 1000),
      step: String(scrapeMs / 1000),
    };
    const parameters = new URLSearchParams({ query, ...(now ? {} : range) });
    const { result } = await this.#ask<{ result: unknown[] }>(`query${now ? '' : '_range'}?${parameters.toString()}`);
    return result.length;
  }

  /** Values of a label. */
  async valuesOf(series: string, label: string): Promise<string[]> {
    return this.#ask(`label/${label}/values?${new URLSearchParams({ 'match[]': series }).toString()}`);
  }

  async firing(): Promise<FiringAlert[]> {
    const { alerts } = await this.#ask<{ alerts: FiringAlert[] }>('alerts');
    return alerts.filter(({ state }) => state === 'firing');
  }

  async close(): Promise<void> {
    const over = once(this.#child, 'close');
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await over;
    }
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #ask<T>(what: string): Promise<T> {
    const answer = (await (await fetch(`${this.#url}/api/v1/${what}`)).json()) as Answer<T>;
    if (answer.status !== 'success') throw new Error(`${what}: ${answer.error ?? ''}`);
    return answer.data;
  }

  async #ready(): Promise<void> {
    const deadlineMs = Date.now() + 20_000;
    for (;;) {
      const answer = await fetch(`${this.#url}/-/ready`).catch(() => null);
      if (answer?.ok === true) return;
      if (Date.now() > deadlineMs || this.#child.exitCode !== null) {
        await this.close();
        throw new Error(`Prometheus does not start: ${this.#log}`);
      }
      await systemClock.sleep(50);
    }
  }
}

/** The example with other targets and a fast clock. JSON is YAML. */
async function writeConfig(directory: string, targets: ReadonlyMap<string, string>): Promise<void> {
  const every = `${scrapeMs}ms`;
  const example = readScrapes();
  const jobs = example.scrape_configs.map((job) => {
    const target = targets.get(job.job_name);
    return { ...job, static_configs: target === undefined ? [] : [{ targets: [target] }] };
  });
  const config = {
    ...example,
    global: { scrape_interval: every, scrape_timeout: every, evaluation_interval: every },
    scrape_configs: jobs,
  };
  await writeFile(path.join(directory, 'prometheus.yml'), JSON.stringify(config));
}
