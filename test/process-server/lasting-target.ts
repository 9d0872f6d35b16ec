/**
 * A target that outlives its connections: it keeps epochs, layers and points, takes up layers again, and stores each batch once. A test takes it away, lets it
 * keep its credit or its answers to itself, or changes what it says.
 */
import { Problem } from '../../src/kit/problem.ts';
import type { LayerRun } from '../../src/kernels/layer-run.ts';
import { sameLayers } from '../../src/kernels/layer-run.ts';
import { encodeCommitted } from '../../src/wire/committed.ts';
import { encodeCredit } from '../../src/wire/credit.ts';
import { decodeCycle } from '../../src/wire/cycle.ts';
import { encodeDurable } from '../../src/wire/durable.ts';
import { encodeErrorMessage } from '../../src/wire/error.ts';
import { features } from '../../src/wire/features.ts';
import { decodeFrame, frameType, type Frame } from '../../src/wire/frame.ts';
import { decodeGap, type Gap } from '../../src/wire/gap.ts';
import { decodeHello, protocolVersion } from '../../src/wire/hello.ts';
import { encodeLeaves } from '../../src/wire/leaves.ts';
import { decodeOpenDisk } from '../../src/wire/open-disk.ts';
import { encodeOpened, type Opened } from '../../src/wire/opened.ts';
import { decodePing, encodePing } from '../../src/wire/ping.ts';
import { decodePointMessage, type PointMessage } from '../../src/wire/point.ts';
import { decodeSealedHeader } from '../../src/wire/sealed.ts';
import { encodeWelcome } from '../../src/wire/welcome.ts';
import type { Connection } from '../../src/transport/connection.ts';
import { runOf } from '../layers.ts';
import { pair, type FakeConnection } from './fakes.ts';

interface Layer {
  readonly disk: number;
  readonly salt: string;
  batches: number;
  listed: boolean;
}

export class LastingTarget {
  away = false;
  /** Bytes granted to a connection; each batch is granted again when it is durable. */
  windowBytes = 32 * 1024 * 1024;
  /** No answer of this type goes out. */
  mute: ReadonlySet<number> = new Set();
  offers: readonly string[] = [features.continueLayers];
  opened: (message: Opened) => Opened = (message) => message;
  epoch = 0;
  instance = '';
  readonly layers = new Map<number, Layer>();
  readonly points: PointMessage[] = [];
  readonly gaps: Gap[] = [];
  /** What arrived, each batch once, in order. */
  readonly stored: string[] = [];
  readonly faults: string[] = [];
  readonly instances: string[] = [];
  connections = 0;
  #present: FakeConnection | null = null;
  #current = new Map<number, number>();

  connect(): Promise<Connection> {
    if (this.away) return Promise.reject(new Problem('unreachable', 'there is no target', { retryable: true }));
    const [ours, theirs] = pair(['target', 't1'], ['process-server', 'p1']);
    this.#present?.close(4004, 'superseded');
    this.#present = theirs;
    this.#current = new Map();
    this.connections += 1;
    theirs.onFrame((message) => {
      try {
        this.#take(decodeFrame(message), theirs);
      } catch (error) {
        this.faults.push(String(error));
      }
    });
    return Promise.resolve(ours);
  }

  /** From now on, and the present connection breaks. */
  goAway(): void {
    this.away = true;
    this.#present?.close(1006, 'gone');
  }

  send(type: number, frame: Uint8Array, connection = this.#present): void {
    if (!this.mute.has(type)) connection?.send(frame).catch(() => undefined);
  }

  grant(bytes: number): void {
    this.send(frameType.credit, encodeCredit(bytes));
  }

  #take(frame: Frame, connection: FakeConnection): void {
    switch (frame.type) {
      case frameType.hello: {
        const { instance } = decodeHello(frame.body);
        this.instances.push(instance);
        if (instance !== this.instance) this.epoch += 1;
        this.instance = instance;
        const welcome = { version: 't', session: 's', features: [...this.offers] };
        this.send(frameType.welcome, encodeWelcome({ protocol: protocolVersion, ...welcome }), connection);
        return;
      }
      case frameType.openDisk: {
        this.#open(frame);
        return;
      }
      case frameType.cycle: {
        const { disk, seq, salt = '' } = decodeCycle(frame.body);
        const layer = this.layers.get(seq) ?? { disk, salt, batches: 0, listed: false };
        if (layer.salt !== salt || layer.listed) this.#refuse(`layer ${seq} can not go on`);
        this.layers.set(seq, layer);
        this.#current.set(disk, seq);
        this.send(frameType.durable, encodeDurable(disk, { seq, batches: layer.batches }));
        return;
      }
      case frameType.sealed: {
        this.#sealed(frame);
        return;
      }
      case frameType.point: {
        this.#point(decodePointMessage(frame.body));
        return;
      }
      case frameType.gap: {
        this.gaps.push(decodeGap(frame.body));
        return;
      }
      case frameType.ping: {
        this.send(frameType.pong, encodePing('pong', decodePing(frame.body)));
        return;
      }
      default:
        if (frame.type !== frameType.error) this.faults.push(`type ${frame.type}`);
    }
  }

  #open(frame: Frame): void {
    const { disk, knownPoint } = decodeOpenDisk(frame.body);
    const last = this.points.at(-1);
    const root = last?.disks.find((each) => each.disk === disk)?.root;
    const message: Opened = {
      disk,
      diskId: `0${disk}`.repeat(16),
      epoch: this.epoch,
      nextCounter: 1 + [...this.layers.keys()].length,
      committed: last && root ? { point: this.points.length, cutTimeMs: last.cutTimeMs, size: 65_536, root } : null,
      layers: null,
      leaves: knownPoint === null ? 'compare' : 'since',
      leafKey: 'aa'.repeat(32),
      diskKey: 'bb'.repeat(32),
      keyVersion: 1,
    };
    this.send(frameType.opened, encodeOpened(this.opened(message)));
    this.send(frameType.leaves, encodeLeaves(disk, { last: true, pairs: [] }));
    if (disk === 0) this.grant(this.windowBytes);
  }

  #sealed({ disk, body }: Frame): void {
    const { seq, batch } = decodeSealedHeader(body);
    const layer = this.layers.get(seq);
    if (!layer || this.#current.get(disk) !== seq) {
      this.faults.push(`batch ${batch} outside layer ${seq}`);
      return;
    }
    if (batch > layer.batches) {
      this.#refuse(`batch ${batch} of layer ${seq} instead of ${layer.batches}`);
      return;
    }
    if (batch === layer.batches) {
      this.stored.push(`${seq % 2 ** 32}/${batch}`);
      layer.batches += 1;
    }
    this.send(frameType.durable, encodeDurable(disk, { seq, batches: batch + 1 }));
    this.grant(body.byteLength);
  }

  #runOf(disk: number): LayerRun | null {
    return runOf(
      [...this.layers].flatMap(([seq, each]) => (each.disk === disk && !each.listed && each.batches > 0 ? [seq] : [])),
    );
  }

  #point(message: PointMessage): void {
    for (const { disk, layers } of message.disks) {
      if (!sameLayers(layers, this.#runOf(disk))) this.faults.push(`POINT ${message.cutTimeMs} lists other layers`);
    }
    for (const layer of this.layers.values()) layer.listed ||= layer.batches > 0;
    this.points.push(message);
    const disks = message.disks.map(({ disk, root }) => ({ disk, root }));
    this.send(frameType.committed, encodeCommitted({ point: this.points.length, cutTimeMs: message.cutTimeMs, disks }));
  }

  #refuse(message: string): void {
    this.faults.push(message);
    this.#present?.send(encodeErrorMessage({ code: 'layer-unknown', message, retryable: true })).catch(() => undefined);
    this.#present?.close(4021, message);
  }
}
