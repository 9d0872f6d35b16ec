/**
 * What an NBD export is made of. The server (`nbd/server.ts`) speaks the protocol; a backend is the disk behind it: the write
 * splitter of `capture/`, or a recovery point of `recovery/`.
 *
 * Contract, for every implementation (one shared suite, `test/nbd/backend-contract.ts`, runs against all):
 *  1. Ranges are inside [0, size), not empty, and aligned to nothing but bytes; the server has checked them. Data is at most
 *     `limits.nbd.requestBytesMax`; `zero` and `extents` may span 4 GiB − 1. Calls overlap in time, in any number up to
 *     `limits.nbd.inFlightRequestsMax` per connection. `size` and `readOnly` never change.
 *  2. A call that rejects with a Problem of code `EIO`, `ENOSPC`, `EINVAL`, `EPERM`, `ESHUTDOWN` becomes that NBD error;
 *     anything else becomes `EIO`.
 *  3. A resolved write is visible to every later read on every connection.
 *  4. A resolved `flush` makes durable every write that was resolved before it was called; `fua` does it for one request.
 *  5. `zero` really makes zeros (trim included: a trimmed range reads as zeros, or trim is not advertised).
 *  6. `read` fills `into` whole; the caller owns it. `data` given to `write` belongs to the backend until the call ends; after
 *     that the server reuses it.
 *  7. `readNow` and `writeNow`, where a backend has them, do what `read` and `write` (without `fua`) do, in the call itself, and throw what those
 *     reject with; or they answer false, and nothing happened but that `into` may hold anything. They wait for no disk, but for the moment in
 *     which a call proves slow that was not expected to be.
 */
export interface Extent {
  readonly length: number;
  /** Reads as zeros and (if `hole`) is not allocated. */
  readonly zero: boolean;
  readonly hole: boolean;
}

export interface Backend {
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Whether writes seen on one connection are visible on all after a flush (NBD_FLAG_CAN_MULTI_CONN). */
  readonly multiConnection: boolean;
  /** Preferred I/O size in bytes, told to clients. */
  readonly preferredBytes: number;
  read(into: Uint8Array, offset: number): Promise<void>;
  write(data: Uint8Array, offset: number, fua: boolean): Promise<void>;
  readNow?(into: Uint8Array, offset: number): boolean;
  writeNow?(data: Uint8Array, offset: number): boolean;
  flush(): Promise<void>;
  /** Makes the range read as zeros. `mayUnmap` false: keep the space allocated (NBD_CMD_FLAG_NO_HOLE). */
  zero(offset: number, length: number, fua: boolean, mayUnmap: boolean): Promise<void>;
  /** Extents that cover the range from `offset`, at least one, at most up to `offset + length`; neighbours differ. */
  extents(offset: number, length: number): Promise<readonly Extent[]>;
}
