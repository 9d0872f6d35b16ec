import { describe, expect, it } from 'vitest';
import { PacedLink } from '../../src/kit/paced-link.ts';
import { parseRateTable } from '../../src/kit/rate-table.ts';
import type { Turn } from '../../src/kit/shares.ts';
import { SteppedClock } from './stepped-clock.ts';

const KiB = 1024;

/** Asks for the next turn as soon as the one before has passed, like a session's way to its target. */
class Sender {
  readonly passed: { readonly atMs: number; readonly bytes: number }[] = [];
  readonly #abort = new AbortController();

  constructor(link: PacedLink, clock: SteppedClock, turn: Partial<Turn> & { readonly bytes: number }) {
    const whole: Turn = { key: 'm1', priority: 'normal', bulk: false, ...turn };
    const run = async (): Promise<void> => {
      for (;;) {
        await link.take(whole, this.#abort.signal);
        this.passed.push({ atMs: clock.monotonicMs(), bytes: whole.bytes });
      }
    };
    run().catch(() => undefined);
  }

  stop(): void {
    this.#abort.abort(new Error('stopped'));
  }

  between(fromMs: number, toMs: number): number {
    return this.passed.filter(({ atMs }) => atMs > fromMs && atMs <= toMs).reduce((sum, { bytes }) => sum + bytes, 0);
  }
}

function limited(rate: number | null): { clock: SteppedClock; link: PacedLink; set: (to: number | null) => void } {
  const clock = new SteppedClock();
  let now = rate;
  return { clock, link: new PacedLink({ clock, rate: () => now }), set: (to) => (now = to) };
}

const share = (part: number, whole: number): number => part / whole;

describe('a link with a limit', () => {
  it.each([
    ['8 Mb/s, batches of 512 KiB, half of it after compression', 1e6, 256 * KiB],
    ['8 Mb/s in small batches', 1e6, 16 * KiB],
    ['100 Mb/s in large batches', 12.5e6, 1280 * KiB],
    ['1 Gb/s', 125e6, 512 * KiB],
  ])('passes what it should within 5 %% in every 10 s: %s', async (_name, rate, bytes) => {
    const { clock, link } = limited(rate);
    const sender = new Sender(link, clock, { bytes });
    await clock.pass(40_000);
    sender.stop();
    for (let from = 0; from <= 30_000; from += 500) {
      const ratio = share(sender.between(from, from + 10_000), rate * 10);
      expect(ratio, `from ${from} ms`).toBeGreaterThan(0.95);
      expect(ratio, `from ${from} ms`).toBeLessThan(1.05);
    }
  });

  it('lets nobody save up: after a quiet minute no more passes than at work', async () => {
    const { clock, link } = limited(1e6);
    await clock.pass(60_000);
    const sender = new Sender(link, clock, { bytes: 64 * KiB });
    await clock.pass(10_000);
    sender.stop();
    expect(share(sender.between(0, 70_000), 10e6)).toBeLessThan(1.02);
  });

  it('changes at once, up, down, and to no limit', async () => {
    const { clock, link, set } = limited(1e6);
    const sender = new Sender(link, clock, { bytes: 64 * KiB });
    await clock.pass(10_000);
    set(4e6);
    await clock.pass(10_000);
    set(5e5);
    await clock.pass(10_000);
    expect(share(sender.between(10_000, 20_000), 40e6)).toBeCloseTo(1, 1);
    expect(share(sender.between(20_000, 30_000), 5e6)).toBeGreaterThan(0.95);
    expect(share(sender.between(20_000, 30_000), 5e6)).toBeLessThan(1.05);
    sender.stop();
    let passed = 0;
    for (let i = 0; i < 40; i += 1) {
      void link.take({ key: 'm1', priority: 'normal', bulk: false, bytes: 1024 * KiB }).then(() => (passed += 1));
    }
    await clock.pass(1000);
    expect(passed).toBeLessThan(2);
    set(null);
    await clock.pass(250);
    expect(passed).toBe(40);
  });

  it('is accurate on both sides of an edge of its table', async () => {
    const clock = new SteppedClock(Date.parse('2026-01-05T07:59:40Z'));
    const table = parseRateTable('mon-fri 08:00-18:00 8Mb/s; else 80Mb/s', 'UTC');
    const link = new PacedLink({ clock, rate: () => table.at(clock.wallMs()) });
    const sender = new Sender(link, clock, { bytes: 128 * KiB });
    await clock.pass(40_000);
    sender.stop();
    expect(share(sender.between(10_000, 20_000), 100e6)).toBeGreaterThan(0.95);
    expect(share(sender.between(10_000, 20_000), 100e6)).toBeLessThan(1.05);
    expect(share(sender.between(20_250, 30_250), 10e6)).toBeGreaterThan(0.95);
    expect(share(sender.between(20_250, 30_250), 10e6)).toBeLessThan(1.05);
  });

  it('paces what was charged afterwards, but holds nobody up for minutes', async () => {
    const { clock, link } = limited(1e6);
    link.charge(3e6);
    const sender = new Sender(link, clock, { bytes: 64 * KiB });
    await clock.pass(2_900);
    expect(sender.passed).toEqual([]);
    await clock.pass(10_000);
    expect(share(sender.between(0, 12_900), 9.9e6)).toBeCloseTo(1, 1);
    link.charge(1e9);
    await clock.pass(11_000);
    expect(sender.between(12_900, 23_900)).toBeGreaterThan(0);
    sender.stop();
  });

  it('forgets who gave up waiting', async () => {
    const { clock, link } = limited(1e6);
    const abort = new AbortController();
    const gone = link.take({ key: 'gone', priority: 'high', bulk: false, bytes: 64e6 }, abort.signal);
    const stays = link.take({ key: 'stays', priority: 'normal', bulk: false, bytes: 1000 });
    abort.abort(new Error('the session ended'));
    await expect(gone).rejects.toThrow('the session ended');
    await clock.pass(300);
    await stays;
    expect(clock.nextMs).toBeNull();
  });
});

describe('who shares a link', () => {
  it('gets equal parts, whatever the size of its batches', async () => {
    const { clock, link } = limited(4e6);
    const small = new Sender(link, clock, { key: 'small', bytes: 8 * KiB });
    const large = new Sender(link, clock, { key: 'large', bytes: 512 * KiB });
    await clock.pass(20_000);
    const all = small.between(0, 20_000) + large.between(0, 20_000);
    expect(share(small.between(0, 20_000), all)).toBeCloseTo(0.5, 1);
    for (const sender of [small, large]) sender.stop();
  });

  it('goes first with a higher priority, and starves none', async () => {
    const { clock, link } = limited(4e6);
    const classes = (['low', 'normal', 'high'] as const).map(
      (priority) => new Sender(link, clock, { key: priority, priority, bytes: 32 * KiB }),
    );
    await clock.pass(60_000);
    const [low = 0, normal = 0, high = 0] = classes.map((sender) => sender.between(0, 60_000));
    expect(high / normal).toBeGreaterThan(8);
    expect(normal / low).toBeGreaterThan(8);
    expect(low).toBeGreaterThan(0);
    expect(share(low + normal + high, 240e6)).toBeCloseTo(1, 1);
    for (const sender of classes) sender.stop();
  });

  it('has all of the link while the others have nothing to send, and no more than its share from when they have', async () => {
    const { clock, link } = limited(4e6);
    const low = new Sender(link, clock, { key: 'low', priority: 'low', bytes: 32 * KiB });
    await clock.pass(10_000);
    expect(share(low.between(0, 10_000), 40e6)).toBeGreaterThan(0.95);
    const high = new Sender(link, clock, { key: 'high', priority: 'high', bytes: 32 * KiB });
    await clock.pass(10_000);
    expect(share(high.between(10_000, 20_000), 40e6)).toBeGreaterThan(0.9);
    for (const sender of [low, high]) sender.stop();
  });

  it('takes at most 30 % for resync and initial replication while changes wait, and all of it else', async () => {
    const { clock, link } = limited(4e6);
    const bulk = ['b1', 'b2', 'b3'].map((key) => new Sender(link, clock, { key, bulk: true, bytes: 128 * KiB }));
    const important = new Sender(link, clock, { key: 'b4', priority: 'high', bulk: true, bytes: 128 * KiB });
    const sum = (from: number, to: number): number =>
      [...bulk, important].reduce((bytes, sender) => bytes + sender.between(from, to), 0);
    await clock.pass(10_000);
    expect(share(sum(0, 10_000), 40e6)).toBeGreaterThan(0.95);
    const delta = new Sender(link, clock, { key: 'd', priority: 'low', bytes: 64 * KiB });
    await clock.pass(30_000);
    for (let from = 11_000; from <= 30_000; from += 1000) {
      expect(share(sum(from, from + 10_000), 40e6)).toBeLessThanOrEqual(0.31);
    }
    expect(share(delta.between(10_000, 40_000), 120e6)).toBeGreaterThan(0.65);
    expect(share(sum(10_000, 40_000), 120e6)).toBeGreaterThan(0.25);
    for (const sender of [...bulk, important, delta]) sender.stop();
  });
});
