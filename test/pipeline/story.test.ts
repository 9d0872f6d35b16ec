/**
 * Random stories over the whole data path, against plain memory. After each of them:
 *  (a) every committed point, read back from the target's directory, is the disks as of its cut, all disks of the same one;
 *  (b) no acknowledged point is lost;
 *  (c) no role met anything it calls a bug, none gave up for good;
 *  (d) one more cycle commits, and every point is proven;
 *  (e) nothing that was durable was sent again.
 */
import { rmSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import type { Trouble } from './mortal-files.ts';
import { readBack } from './read-back.ts';
import { Site } from './site.ts';
import { clock } from './surroundings.ts';

vi.mock('../../src/limits.ts', async (load) => {
  const { smallLimits } = await import('./small-limits.ts');
  return smallLimits(await load());
});

const soak = process.env['TIDEMARK_TEST_SOAK'] === '1';
const seed = Number(process.env['TIDEMARK_TEST_SEED'] ?? (soak ? Date.now() % 2 ** 31 : 20_261_121));
const numRuns = Number(process.env['TIDEMARK_TEST_RUNS'] ?? (soak ? 600 : 60));
const replay = process.env['TIDEMARK_TEST_PATH'];

type Command =
  | { kind: 'write'; disk: number; where: number; bytes: number; fill: number; wait: boolean }
  | { kind: 'burst'; disk: number; where: number; count: number; fill: number }
  | { kind: 'slow'; ms: number }
  | { kind: 'cycle' }
  | { kind: 'point' }
  | { kind: 'cut'; hop: 'agent' | 'target'; frames: number }
  | { kind: 'process-server' }
  | {
      kind: 'agent';
      how: 'close' | 'crash';
      lost: 'nothing' | 'leaves' | 'log' | 'both' | 'json' | 'state';
      grow: number;
    }
  | { kind: 'resync'; disk: number | null; now: boolean }
  | { kind: 'window'; ms: number }
  | { kind: 'target'; how: 'close' | 'crash'; lost: 'nothing' | 'index' | 'leaves'; awayMs: number }
  | { kind: 'pause'; ms: number };

const how = fc.constantFrom('close' as const, 'crash' as const);
const kind = <K extends string>(name: K) => fc.constant(name);
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({
      kind: kind('write'),
      disk: fc.nat(1),
      where: fc.nat(),
      bytes: fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.integer({ min: 1, max: 200_000 })),
      fill: fc.nat(255),
      wait: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: kind('burst'),
      disk: fc.nat(1),
      where: fc.nat(),
      count: fc.integer({ min: 2, max: 20 }),
      fill: fc.nat(255),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: kind('slow'), ms: fc.constantFrom(0, 2, 15) }) },
  { weight: 4, arbitrary: fc.record({ kind: kind('cycle') }) },
  { weight: 3, arbitrary: fc.record({ kind: kind('point') }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: kind('cut'),
      hop: fc.constantFrom('agent' as const, 'target' as const),
      frames: fc.nat(25),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: kind('process-server') }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: kind('agent'),
      how,
      lost: fc.constantFrom(
        'nothing' as const,
        'nothing' as const,
        'leaves' as const,
        'log' as const,
        'both' as const,
        'json' as const,
        'state' as const,
      ),
      grow: fc.oneof(fc.constant(0), fc.constant(0), fc.integer({ min: 1, max: 500 })),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: kind('target'),
      how,
      lost: fc.constantFrom('nothing' as const, 'nothing' as const, 'index' as const, 'leaves' as const),
      awayMs: fc.constantFrom(0, 0, 20),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: kind('resync'), disk: fc.option(fc.nat(1)), now: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: kind('window'), ms: fc.integer({ min: 0, max: 150 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: kind('pause'), ms: fc.integer({ min: 0, max: 25 }) }) },
);

const stories = fc.record({
  blockSize: fc.constantFrom(4096, 65_536),
  /** In sectors. */
  sizes: fc.array(fc.integer({ min: 300, max: 3000 }), { minLength: 1, maxLength: 2 }),
  intervalMs: fc.constantFrom(5, 40, 3_600_000),
  commands: fc.array(command, { minLength: 3, maxLength: 22 }),
});
type Story = typeof stories extends fc.Arbitrary<infer T> ? T : never;

const seen = new Map<string, number>();
function count(what: string): void {
  seen.set(what, (seen.get(what) ?? 0) + 1);
}

/** One thread of commands; writes that are not waited for go on beside it. */
class Teller {
  readonly site: Site;
  readonly #writes = new Set<Promise<void>>();
  #slowMs = 0;

  constructor(site: Site) {
    this.site = site;
    this.#slowWrites();
  }

  async tell(now: Command): Promise<void> {
    count(now.kind);
    const { site } = this;
    switch (now.kind) {
      case 'write': {
        const write = this.#write(now.disk, now.where, now.bytes, now.fill);
        if (now.wait) await write;
        return;
      }
      case 'burst':
        for (let index = 0; index < now.count; index += 1)
          void this.#write(now.disk, now.where + index * 70_001, 3000 + index * 100, now.fill + index);
        return;
      case 'slow':
        this.#slowMs = now.ms;
        return;
      case 'cycle':
        site.agent?.agent.requestCycle();
        return;
      case 'point':
        await site.point();
        return;
      case 'cut':
        (now.hop === 'agent' ? site.agentHop : site.targetHop).cutAfter(now.frames);
        return;
      case 'process-server':
        site.newProcessServer();
        return;
      case 'agent':
        await this.#agent(now);
        return;
      case 'target':
        await this.#target(now);
        return;
      case 'resync': {
        const disks = now.disk === null ? undefined : [site.disk(now.disk).name];
        site.agent?.agent.requestResync({ disks, now: now.now });
        return;
      }
      case 'window':
        site.resyncOpensAtMs = clock.wallMs() + now.ms;
        return;
      case 'pause':
        await systemClock.sleep(now.ms);
        return;
    }
  }

  async quiet(): Promise<void> {
    this.#slowMs = 0;
    await Promise.all(this.#writes);
  }

  #write(disk: number, where: number, bytes: number, fill: number): Promise<void> {
    const { size } = this.site.disk(disk);
    const offset = where % size;
    const length = Math.min(bytes, size - offset);
    const write = this.site
      .write(disk, offset, fill % 5 === 0 ? length : Buffer.alloc(length, `${fill}/${offset}/`))
      .finally(() => this.#writes.delete(write));
    this.#writes.add(write);
    return write;
  }

  #slowWrites(): void {
    const { agent, disks } = this.site;
    const images = new Set(disks.map(({ image }) => image));
    if (!agent) return;
    const slow: Trouble = (operation, path) =>
      operation === 'write' && images.has(path) && this.#slowMs > 0 ? systemClock.sleep(this.#slowMs) : undefined;
    agent.files.trouble = slow;
    agent.files.late = slow;
  }

  async #agent(now: Command & { kind: 'agent' }): Promise<void> {
    const { site } = this;
    // A closing agent waits for its writers.
    if (now.how === 'close') await this.quiet();
    await site.endAgent(now.how);
    await this.quiet();
    for (const { name } of site.disks) {
      if (now.lost === 'leaves' || now.lost === 'both') rmSync(`${site.state}/${name}.leaves`);
      if (now.lost === 'log' || now.lost === 'both') rmSync(`${site.state}/${name}.hrl`);
      if (now.lost === 'json') rmSync(`${site.state}/${name}.json`);
    }
    if (now.lost === 'state') rmSync(site.state, { recursive: true });
    if (now.grow > 0) site.grow(now.grow, now.grow * 512);
    await site.startAgent();
    this.#slowWrites();
    count(`agent ${now.how} ${now.lost}`);
  }

  async #target(now: Command & { kind: 'target' }): Promise<void> {
    const { site } = this;
    await site.endTarget(now.how);
    if (now.lost !== 'nothing') rmSync(`${site.store}/${now.lost}`, { recursive: true, force: true });
    if (now.awayMs > 0) await systemClock.sleep(now.awayMs);
    await site.startTarget();
    count(`target ${now.how} ${now.lost}`);
  }
}

async function tellAll(site: Site, story: Story): Promise<void> {
  const teller = new Teller(site);
  for (const now of story.commands) {
    site.said.push(`-- ${JSON.stringify(now)}`);
    await teller.tell(now);
  }
  site.said.push('-- the dust settles');
  await teller.quiet();
  await site.point(); // (d)
  const last = await site.point();
  for (let point = 1; point <= last; point += 1) await site.proven(point);
  site.intervalMs = 3_600_000;
  await site.endAgent('close');
  await site.endTarget('close');
  const points = await readBack(site); // (a), (b), (e)
  seen.set('points', (seen.get('points') ?? 0) + points);
}

const storyMs = 30_000;

async function tell(story: Story): Promise<void> {
  const site = await Site.started({
    blockSize: story.blockSize,
    sizes: story.sizes.map((sectors) => sectors * 512),
    intervalMs: story.intervalMs,
  });
  try {
    const late = new AbortController();
    const deadline = systemClock.sleep(storyMs, late.signal).then(
      () => Promise.reject(new Error(`not over in ${storyMs} ms`)),
      () => undefined,
    );
    await Promise.race([tellAll(site, story), deadline]);
    late.abort();
    if (site.alarms.length > 0) throw new Error(`a role met a bug: ${site.alarms.join('\n')}`); // (c)
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.stack : String(error)}\n${site.story()}`, { cause: error });
  } finally {
    await site.remove();
  }
}

test(
  `any story of writers, cut wires and restarts ends in true points (seed ${seed})`,
  async () => {
    await fc.assert(fc.asyncProperty(stories, tell), {
      seed,
      numRuns,
      endOnFailure: true,
      ...(replay === undefined ? {} : { path: replay }),
    });
    console.info(`stories: ${JSON.stringify(Object.fromEntries([...seen].sort()))}`);
    for (const what of ['cut', 'process-server', 'agent', 'target', 'resync', 'points'])
      expect(seen.get(what)).toBeGreaterThan(0);
  },
  soak ? 3_600_000 : 600_000,
);
