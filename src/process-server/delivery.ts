/**
 * Getting what one machine sends to its target, whatever becomes of connections: link, backlog, and, where there is a spool, what waits on disk. Its owner
 * is the session of an agent, or, when the agent left or the process was restarted, nobody (`drains.ts`).
 *
 * Invariants:
 *  1. Without a spool, or with a target that can not take up a layer again, it ends with its first connection.
 *  2. So it does while disks are being opened or compared (`resumable`), and when the target is not where it was. What is on disk then is of no use and
 *     is dropped, unless only the connection broke.
 *  3. What the target does not heal by itself ends it, too: a refusal is final here. Time heals what `healing` lists.
 *  4. A sender begins only after the one before it has stopped: entries have one user that may send them.
 */
import type { Timer } from '../kit/clock.ts';
import { Credit } from '../kit/credit.ts';
import { messageOf, Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Connection } from '../transport/connection.ts';
import { mustRecycle } from '../transport/heartbeat.ts';
import { decodeCommitted, encodeCommitted, type Committed } from '../wire/committed.ts';
import { decodeCredit } from '../wire/credit.ts';
import { decodeDurable } from '../wire/durable.ts';
import { features } from '../wire/features.ts';
import { decodeFrame, frameType, type Frame } from '../wire/frame.ts';
import { encodeGap } from '../wire/gap.ts';
import { Backlog } from './backlog.ts';
import type { SessionCounters } from './counters.ts';
import type { DeliveryOwner, DeliveryParts, Remains } from './delivery-parts.ts';
import { MachineSpool } from './machine-spool.ts';
import { Reopening } from './reopening.ts';
import { Sender } from './sender.ts';
import type { RecoveredSpool } from './spool-recovery.ts';
import type { MachineSpoolReport } from './spool-report.ts';
import { TargetFacts } from './target-facts.ts';
import { TargetLink } from './target-link.ts';
import { Waits } from './waits.ts';
import { WaitingPoints } from './waiting-points.ts';

/** Invariant 3. */
const healing: ReadonlySet<string> = new Set([
  'unreachable',
  'timeout',
  'shutting-down',
  'overloaded',
  'full',
  'store-failed',
  'internal',
]);
const { spoolAfterMs, spoolUnansweredMs } = limits.processServer;

export class Delivery {
  readonly machine: string;
  readonly waits: Waits;
  readonly #parts: DeliveryParts;
  #counters: SessionCounters;
  #owner: DeliveryOwner;
  readonly link: TargetLink;
  readonly #points: WaitingPoints;
  /** What the agent sends goes in here. */
  readonly backlog: Backlog;
  readonly #spool: MachineSpool | null;
  readonly #ticking: Timer | null;
  readonly facts: TargetFacts;
  readonly #isRecovered: boolean;
  #sender: Sender | null = null;
  #credit = new Credit(0);
  #reopening: Reopening | null = null;
  #welcomed = false;
  #detached = false;
  #lostAtMs: number | null = null;
  /** Whether what the target says is to be read (`pause`). */
  #paused = false;
  #ended: Promise<void> | null = null;

  constructor(
    parts: DeliveryParts,
    owner: DeliveryOwner,
    about: { readonly machine: string; readonly counters: SessionCounters; readonly recovered?: RecoveredSpool },
  ) {
    const { clock, random, version, slabs, spool, connectTarget, admission, onTarget } = parts;
    const { machine, recovered } = about;
    this.machine = machine;
    this.#parts = parts;
    this.#owner = owner;
    this.#counters = about.counters;
    this.waits = new Waits(clock);
    this.#points = recovered?.points ?? new WaitingPoints();
    this.facts = new TargetFacts(recovered?.owner ?? { machine, instance: parts.instance, epoch: 0, disks: [] });
    this.#isRecovered = recovered !== undefined;
    this.backlog = new Backlog({
      slabs,
      waits: this.waits,
      points: this.#points,
      freed: (entry, by) => this.#owner.freed(entry, by),
      onRoom: () => this.#owner.room(),
      onEmpty: () => this.#drained(),
    });
    this.link = new TargetLink({
      machine,
      instance: this.facts.owner.instance,
      features: spool ? [features.continueLayers] : [],
      connectTarget,
      admission,
      clock,
      random,
      version,
      opened: (connection, welcome) => this.#onWelcome(connection, welcome.features),
      heard: (frame) => this.#heard(frame),
      lost: (reason) => this.#lost(reason),
      faulted: (error) => this.#fail(error, 'dropped'),
      onTarget,
    });
    const own = { machine, backlog: this.backlog, clock, logger: parts.logger };
    this.#spool = spool
      ? new MachineSpool(spool, {
          ...own,
          owner: () => this.facts.owner,
          failed: (error) => this.#fail(error, 'kept'),
          wrote: (bytes) => {
            this.#counters.spooledBytes += bytes;
          },
        })
      : null;
    this.#ticking = spool ? clock.every(spoolAfterMs / 2, () => this.#tick()) : null;
    if (recovered) this.#recover(recovered);
  }

  start(): void {
    this.#lostAtMs = this.#parts.clock.monotonicMs();
    this.link.connect();
  }

  /** Whether it goes on without its target. */
  get keeps(): boolean {
    return this.backlog.keep;
  }

  get level(): MachineSpoolReport['level'] {
    return this.#spool?.level ?? 'ok';
  }

  get report(): MachineSpoolReport {
    const { oldest } = this.#points;
    return {
      machine: this.machine,
      bytes: this.#spool?.usedBytes ?? 0,
      points: this.#points.count,
      oldestMs: oldest ? Math.max(0, this.#parts.clock.wallMs() - oldest.cutTimeMs) : null,
      targetSinceMs: this.link.sinceMs,
      level: this.level,
      draining: this.#detached,
      failure: this.#spool?.failure?.message ?? null,
    };
  }

  /** Reads no more from the target, until `resume`. */
  pause(): void {
    this.#paused = true;
    this.link.connection?.pause();
  }

  resume(): void {
    this.#paused = false;
    this.link.connection?.resume();
  }

  get paused(): boolean {
    return this.#paused;
  }

  // ---- its end --------------------------------------------------------------------------------------------------------------

  /** The agent left: true when something is on disk, which goes on without it, for another owner. */
  detach(owner: DeliveryOwner, counters: SessionCounters): boolean {
    if (this.#ended || !this.keeps || this.backlog.isDiskEmpty) return false;
    this.#owner = owner;
    this.#counters = counters;
    this.#detached = true;
    this.#spool?.stop();
    this.backlog.forgetMemory();
    this.resume();
    if (this.link.phase === 'idle') this.link.retry();
    return true;
  }

  /** Idempotent. Resolves when nothing uses its files any more; never rejects. */
  end(reason: Problem, remains: Remains): Promise<void> {
    this.#ended ??= this.#end(reason, remains);
    return this.#ended;
  }

  async #end(reason: Problem, remains: Remains): Promise<void> {
    this.#ticking?.cancel();
    this.#endReopening();
    this.backlog.end(reason);
    this.#sender?.end(reason);
    this.#credit.end(reason);
    this.link.end(reason);
    this.#spool?.stop();
    await this.#sender?.stopped;
    await this.#spool?.end(remains);
  }

  /** What is on disk is of no use any more, or it is only the connection that broke (invariant 2). */
  #fail(error: unknown, remains: Remains): void {
    if (this.#ended) return;
    const bytes = this.#spool?.usedBytes ?? 0;
    if (remains === 'dropped' && bytes > 0) {
      const fields = { machine: this.machine, bytes, reason: messageOf(error) };
      this.#parts.logger.warn(fields, 'what was spooled was dropped; it is sent again');
      this.#counters.spoolsDropped += 1;
    }
    if (remains === 'dropped') void this.end(asProblem(error), 'dropped');
    this.#owner.failed(error);
  }

  // ---- the target -----------------------------------------------------------------------------------------------------------

  #onWelcome(connection: Connection, agreed: readonly string[]): void {
    this.#credit = new Credit(0);
    if (this.#paused) connection.pause();
    const first = !this.#welcomed;
    this.#welcomed = true;
    const continues = this.#parts.spool !== null && agreed.includes(features.continueLayers);
    if (first && !this.#isRecovered) {
      this.backlog.keep = continues;
      if (continues) this.#spool?.begin();
      this.#beginSending(connection, this.#credit);
      this.#owner.welcomed();
      return;
    }
    if (!continues) {
      this.#fail(
        new Problem('layer-unknown', 'the target can not take up what it had', { retryable: true }),
        'dropped',
      );
      return;
    }
    const [credit, points, { disks, epoch }] = [this.#credit, this.#points, this.facts.owner];
    const done = (committed: Committed | null): void => {
      this.#reopening = null;
      void this.#goOn(connection, credit, committed);
    };
    const late = (reason: Problem): void => this.link.giveUp(reason);
    const { clock } = this.#parts;
    this.#reopening = new Reopening({ connection, disks, epoch, points, mayLag: this.#isRecovered, done, late, clock });
  }

  #recover(recovered: RecoveredSpool): void {
    this.#detached = true;
    this.backlog.keep = true;
    this.#spool?.begin(recovered);
  }

  #beginSending(connection: Connection, credit: Credit): void {
    const { throttle, clock } = this.#parts;
    this.#lostAtMs = null;
    this.#sender = new Sender({
      connection,
      backlog: this.backlog,
      credit,
      throttle: throttle.egress(this.machine),
      points: this.#points,
      isAboveMark: () => this.level === 'throttling' || this.level === 'full',
      counters: () => this.#counters,
      clock,
      waits: this.waits,
      onFailure: (error) => this.#fail(error, 'dropped'),
    });
  }

  /** The disks are what they were: what is not answered goes out again. */
  async #goOn(connection: Connection, credit: Credit, committed: Committed | null): Promise<void> {
    await this.#sender?.stopped; // 4
    if (this.#ended || this.link.connection !== connection) return;
    this.backlog.rewind();
    if (committed) {
      this.backlog.committedThrough(committed.cutTimeMs);
      this.#onCommitted(decodeFrame(encodeCommitted(committed)), committed);
    }
    this.link.succeeded();
    this.#beginSending(connection, credit);
  }

  #lost(reason: Problem): void {
    const { clock } = this.#parts;
    this.#endReopening();
    this.#sender?.end(reason);
    this.#credit.end(reason);
    if (this.#ended) return;
    const wasThere = this.#welcomed || this.#isRecovered;
    const heals = healing.has(reason.code);
    if (!wasThere || !this.keeps || (!this.#detached && !this.#owner.resumable())) {
      this.#fail(reason, heals ? 'kept' : 'dropped');
    } else if (heals) {
      if (this.#lostAtMs === null) this.#counters.targetLosses += 1;
      this.#lostAtMs ??= clock.monotonicMs();
      this.waits.for('target');
      this.link.retry();
    } else this.#fail(reason, 'dropped');
  }

  #endReopening(): void {
    this.#reopening?.end();
    this.#reopening = null;
  }

  #reconnect(why: string): void {
    const reason = new Problem('shutting-down', why, { retryable: true });
    this.#endReopening();
    this.#sender?.end(reason);
    this.#credit.end(reason);
    this.#lostAtMs ??= this.#parts.clock.monotonicMs();
    this.link.connect();
  }

  #heard(frame: Frame): void {
    if (this.#reopening?.take(frame)) return;
    switch (frame.type) {
      case frameType.credit: {
        this.#credit.give(decodeCredit(frame.body));
        return;
      }
      case frameType.durable: {
        const { seq, batches } = decodeDurable(frame.body);
        const durably = this.backlog.durable(seq, batches, this.#parts.clock.monotonicMs());
        this.#counters.batchesDurable += durably.batches;
        this.#counters.stageMs.durable += durably.waitedMs;
        this.#owner.heard(frame);
        return;
      }
      case frameType.committed: {
        this.#onCommitted(frame, decodeCommitted(frame.body));
        if (!this.link.connection || !mustRecycle(this.link.connection)) return;
        const why = 'the connection to the target carried as much as one key should; connect again';
        if (this.keeps) this.#reconnect(why);
        else this.#fail(new Problem('shutting-down', why, { retryable: true }), 'kept');
        return;
      }
      case frameType.rejected: {
        this.#counters.pointsRejected += 1;
        this.#owner.heard(frame);
        this.#onRejected();
        return;
      }
      default:
        this.#owner.heard(frame);
    }
  }

  #onCommitted(frame: Frame, message: Committed): void {
    this.#counters.pointsCommitted += 1;
    this.facts.committed(message);
    const merged = this.#points.answered(message.cutTimeMs);
    this.backlog.committed(message.cutTimeMs);
    this.#owner.heard(frame);
    if (merged) this.backlog.gap(encodeGap(merged));
  }

  /** It voids all that wait: the agent opens a new session. */
  #onRejected(): void {
    const { oldest } = this.#points;
    if (!this.keeps || !oldest) return;
    this.#points.answered(oldest.cutTimeMs);
    this.backlog.committed(oldest.cutTimeMs);
    if (this.#points.count === 0 && this.backlog.isDiskEmpty) return;
    const why = 'the target rejected a point, and others waited behind it';
    this.#fail(new Problem('layer-unknown', why, { retryable: true }), 'dropped');
  }

  /** Without an agent it ends when nothing is left. */
  #drained(): void {
    if (!this.#detached || this.#ended) return;
    void this.end(new Problem('closed', 'all that was spooled is delivered', { retryable: true }), 'dropped');
    this.#owner.failed(null);
  }

  // ---- when to spool --------------------------------------------------------------------------------------------------------

  #tick(): void {
    this.#owner.tick();
    this.backlog.changed.notify();
    const nowMs = this.#parts.clock.monotonicMs();
    const sinceMs = this.#lostAtMs ?? this.#sender?.stalledSinceMs ?? null;
    // A target may grant more than a window holds: then a slow one is seen by the agent, which waits for what it does not answer.
    const unansweredMs = this.#owner.isOutOfCredit() ? this.backlog.oldestSentAtMs : null;
    const isStalled =
      (sinceMs !== null && nowMs - sinceMs >= spoolAfterMs) ||
      (unansweredMs !== null && nowMs - unansweredMs >= spoolUnansweredMs);
    const mayBegin = !this.#detached && isStalled && this.#owner.resumable();
    this.#spool?.tick(mayBegin, !isStalled && this.#lostAtMs === null);
  }
}

function asProblem(error: unknown): Problem {
  return error instanceof Problem
    ? error
    : new Problem('internal', messageOf(error), { retryable: true, cause: error });
}
