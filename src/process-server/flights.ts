/**
 * Which batches of which layers are with the target and not known to be durable there, on one connection.
 *
 *  1. A layer is remembered from its first batch until all its batches are durable and its disk has a newer one: DURABLE counts batches of a layer from its
 *     begin, also those that were sent on another connection.
 */
import { targetFault } from './lane.ts';
import type { Kept } from './kept.ts';

interface Flight {
  readonly disk: number;
  /** Batches that the target has made durable, and that were sent to it. */
  durable: number;
  sent: number;
  readonly waiting: Kept[];
}

export class Flights {
  readonly #flights = new Map<number, Flight>();
  /** By disk: the layer of the newest batch that was sent. */
  readonly #newest = new Map<number, number>();

  /** It is to be sent next. */
  claim(entry: Kept): void {
    if (!entry.layer) return;
    const { disk, seq } = entry.layer;
    const flight = this.#flights.get(seq) ?? { disk, durable: 0, sent: 0, waiting: [] };
    this.#flights.set(seq, flight);
    const before = this.#newest.get(disk);
    if (before !== undefined && before !== seq && this.#flights.get(before)?.waiting.length === 0)
      this.#flights.delete(before);
    this.#newest.set(disk, seq);
    flight.sent = Math.max(flight.sent, entry.batch + 1);
    flight.waiting.push(entry);
  }

  /** True: the target said so, and this one needs no sending. */
  isDurable({ layer, batch }: Kept): boolean {
    const flight = layer && this.#flights.get(layer.seq);
    return flight ? flight.durable > batch : false;
  }

  /** It was claimed, and is not sent. */
  leave(entry: Kept): void {
    const waiting = entry.layer && this.#flights.get(entry.layer.seq)?.waiting;
    waiting?.splice(waiting.indexOf(entry), 1);
  }

  /**
   * Those that are durable now, oldest first.
   * @param mayHaveMore the target may have batches that were not sent on this connection.
   * @throws Problem when it names what was never sent.
   */
  durable(seq: number, batches: number, mayHaveMore: boolean): readonly Kept[] {
    const flight = this.#flights.get(seq);
    if (!flight) return [];
    if (batches > flight.sent && !mayHaveMore) {
      throw targetFault(`DURABLE ${batches} of layer ${seq}, of which ${flight.sent} were sent`);
    }
    flight.durable = Math.max(flight.durable, batches);
    const first = flight.waiting.findIndex(({ batch }) => batch >= batches);
    const durable = flight.waiting.splice(0, first < 0 ? flight.waiting.length : first);
    if (flight.waiting.length === 0 && this.#newest.get(flight.disk) !== seq) this.#flights.delete(seq);
    return durable;
  }

  /** The connection is another one. */
  clear(): void {
    this.#flights.clear();
    this.#newest.clear();
  }
}
