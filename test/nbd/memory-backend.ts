/**
 * A disk in memory behind the NBD backend contract, with hooks: tests delay or fail single calls and look at what was called.
 * Zeroed pages of `pageBytes` count as holes, so that block status has something to say.
 */
import type { Backend, Extent } from '../../src/nbd/backend.ts';
import { Problem } from '../../src/kit/problem.ts';

export type BackendCall = 'read' | 'write' | 'flush' | 'zero' | 'extents';

export interface MemoryBackendOptions {
  readonly readOnly?: boolean;
  readonly multiConnection?: boolean;
  /** Runs before each call takes effect; may wait or throw. */
  readonly before?: (call: BackendCall, offset: number, length: number) => Promise<void> | void;
}

const pageBytes = 4096;

export class MemoryBackend implements Backend {
  readonly size: number;
  readonly readOnly: boolean;
  readonly multiConnection: boolean;
  readonly preferredBytes = pageBytes;
  /** What is on the disk now. */
  readonly content: Buffer;
  /** Calls begun, by kind. */
  readonly calls: Record<BackendCall, number> = { read: 0, write: 0, flush: 0, zero: 0, extents: 0 };
  /** Writes and zeroes that asked for FUA. */
  fuaCalls = 0;
  /** Zeroes that must keep their space. */
  keptAllocated = 0;
  readonly #before: NonNullable<MemoryBackendOptions['before']>;

  /** Takes over `content`. */
  constructor(content: Buffer, options: MemoryBackendOptions = {}) {
    this.content = content;
    this.size = content.byteLength;
    this.readOnly = options.readOnly ?? false;
    this.multiConnection = options.multiConnection ?? true;
    this.#before = options.before ?? ((): void => undefined);
  }

  async read(into: Uint8Array, offset: number): Promise<void> {
    this.calls.read += 1;
    await this.#before('read', offset, into.byteLength);
    into.set(this.content.subarray(offset, offset + into.byteLength));
  }

  async write(data: Uint8Array, offset: number, fua: boolean): Promise<void> {
    this.calls.write += 1;
    if (fua) this.fuaCalls += 1;
    await this.#before('write', offset, data.byteLength);
    this.#refuseIfReadOnly();
    this.content.set(data, offset);
  }

  async flush(): Promise<void> {
    this.calls.flush += 1;
    await this.#before('flush', 0, 0);
  }

  async zero(offset: number, length: number, fua: boolean, mayUnmap: boolean): Promise<void> {
    this.calls.zero += 1;
    if (fua) this.fuaCalls += 1;
    if (!mayUnmap) this.keptAllocated += 1;
    await this.#before('zero', offset, length);
    this.#refuseIfReadOnly();
    this.content.fill(0, offset, offset + length);
  }

  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    this.calls.extents += 1;
    await this.#before('extents', offset, length);
    const found: { length: number; zero: boolean; hole: boolean }[] = [];
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = Math.min(end, (Math.floor(at / pageBytes) + 1) * pageBytes);
      const zero = isZero(this.content.subarray(at, next));
      const last = found.at(-1);
      if (last?.zero === zero) last.length += next - at;
      else found.push({ length: next - at, zero, hole: zero });
      at = next;
    }
    return found;
  }

  #refuseIfReadOnly(): void {
    if (this.readOnly) throw new Problem('EPERM', 'this disk is read-only');
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
