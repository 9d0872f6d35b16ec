/**
 * A link that can be cut: a network namespace of its own with one pair of virtual interfaces to it. Programs inside reach out through it, and
 * those outside reach them, until a test says otherwise.
 *
 * Invariants:
 *  1. Nothing stays: `close`, or the end of the test's process, removes namespace and interfaces. What a killed process left behind is
 *     removed when the next link is made.
 *  2. A cut never closes a connection: packets are dropped silently, in both directions or in one (half-open).
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Place } from '../../scripts/demo/site.ts';
import { requireRoot, requireTool, runTool, runToolOk } from '../tools.ts';

/** Which packets are lost, as seen from outside. */
export type Loss = 'both' | 'outgoing' | 'incoming';

/** Addresses for trials between networks (RFC 2544), used nowhere else; four links at a time. */
const networks = [0, 4, 8, 12].map((from) => ({ outside: `198.18.86.${from + 1}`, inside: `198.18.86.${from + 2}` }));
const prefix = 'tidemark-';
/** Interface names hold 15 characters. */
const outsideNameOf = (pid: number, at: number): string => `tm${pid}o${at}`;
const insideName = 'tm0';

const open = new Set<Link>();
process.on('exit', () => {
  for (const link of open) spawnSync('ip', ['netns', 'delete', link.namespace]);
});

/** Whether this machine lets a test make namespaces: the tools, and root. */
export function requireLinks(): boolean {
  return requireTool('ip', 'tc') && requireRoot('network namespaces');
}

export class Link {
  readonly namespace: string;
  /** Address of the inside, for who is outside. */
  readonly address: string;
  readonly #at: number;
  readonly #outside: string;
  #loss: Loss | null = null;

  private constructor(at: number, address: string) {
    this.namespace = `${prefix}${process.pid}-${at}`;
    this.address = address;
    this.#at = at;
    this.#outside = outsideNameOf(process.pid, at);
  }

  static async open(): Promise<Link> {
    await removeOrphans();
    const taken = await runToolOk('ip', ['-brief', 'address']);
    const own = new Set([...open].map((link) => link.#at));
    const at = networks.findIndex(({ outside }, number) => !own.has(number) && !taken.includes(`${outside}/`));
    const network = networks[at];
    if (!network) throw new Error('all networks for tests are taken');
    const link = new Link(at, network.inside);
    open.add(link);
    try {
      await link.#make(network.outside);
      return link;
    } catch (error) {
      await link.close();
      throw error;
    }
  }

  /** For roles that live inside. */
  get place(): Place {
    return { address: this.address, within: ['ip', 'netns', 'exec', this.namespace] };
  }

  async cut(loss: Loss): Promise<void> {
    this.#loss = loss;
    if (loss === 'both') await this.#inside('ip', 'link', 'set', insideName, 'down');
    // A queue without room drops every packet.
    else if (loss === 'outgoing') await runToolOk('tc', this.#queue('add', this.#outside, 'pfifo', 'limit', '0'));
    else await this.#inside('tc', ...this.#queue('add', insideName, 'pfifo', 'limit', '0'));
  }

  async heal(): Promise<void> {
    const loss = this.#loss;
    this.#loss = null;
    if (loss === 'both') await this.#inside('ip', 'link', 'set', insideName, 'up');
    else if (loss === 'outgoing') await runToolOk('tc', this.#queue('delete', this.#outside));
    else if (loss === 'incoming') await this.#inside('tc', ...this.#queue('delete', insideName));
  }

  /** Holds what goes in to `megabits` per second, by a token bucket. */
  async slowDown(megabits: number): Promise<void> {
    const bucket = ['tbf', 'rate', `${megabits}mbit`, 'burst', '32kbit', 'latency', '50ms'];
    await runToolOk('tc', this.#queue('add', this.#outside, ...bucket));
  }

  /** Bytes that went in, headers included, since the link was made. */
  async bytesIn(): Promise<number> {
    return Number(await readFile(`/sys/class/net/${this.#outside}/statistics/tx_bytes`, 'utf8'));
  }

  /** Idempotent. The interfaces go with the namespace. */
  async close(): Promise<void> {
    if (!open.delete(this)) return;
    await runTool('ip', ['link', 'delete', this.#outside]);
    await runTool('ip', ['netns', 'delete', this.namespace]);
  }

  async #make(outside: string): Promise<void> {
    await runToolOk('ip', ['netns', 'add', this.namespace]);
    const peer = ['peer', 'name', insideName, 'netns', this.namespace];
    await runToolOk('ip', ['link', 'add', this.#outside, 'type', 'veth', ...peer]);
    await runToolOk('ip', ['address', 'add', `${outside}/30`, 'dev', this.#outside]);
    await runToolOk('ip', ['link', 'set', this.#outside, 'up']);
    await this.#inside('ip', 'address', 'add', `${this.address}/30`, 'dev', insideName);
    await this.#inside('ip', 'link', 'set', insideName, 'up');
    await this.#inside('ip', 'link', 'set', 'lo', 'up');
  }

  #queue(verb: 'add' | 'delete', device: string, ...discipline: string[]): string[] {
    return ['qdisc', verb, 'dev', device, 'root', ...discipline];
  }

  async #inside(...words: string[]): Promise<void> {
    await runToolOk('ip', ['netns', 'exec', this.namespace, ...words]);
  }
}

/** Namespaces of test processes that are no more. */
async function removeOrphans(): Promise<void> {
  const listed = await runToolOk('ip', ['netns', 'list']);
  for (const line of listed.split('\n')) {
    const [, name, pid] = /^(tidemark-(\d+)-\d+)\b/.exec(line) ?? [];
    if (name !== undefined && !existsSync(`/proc/${pid}`)) await runTool('ip', ['netns', 'delete', name]);
  }
}
