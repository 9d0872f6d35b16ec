/**
 * Native code returns fresh memory for every call: kernels their outputs, the socket what it read. Left to the garbage collector, a
 * thread runs over untouched pages and spends more time in page faults than in the kernel; released at once, the same pages are
 * used again (2–3× the throughput).
 */

/** Memory from here on is mapped piece by piece by the allocator, and releasing it early gains nothing. */
const releaseBytesMax = 1024 * 1024;

/** Gives memory back now. Only where `output` owns its whole ArrayBuffer, so nobody else's bytes go; it must not be used afterwards. */
export function release(output: Uint8Array): void {
  const { buffer, byteOffset, byteLength } = output;
  if (!(buffer instanceof ArrayBuffer) || byteOffset !== 0 || byteLength !== buffer.byteLength) return;
  if (byteLength === 0 || byteLength >= releaseBytesMax) return;
  buffer.transfer(0);
}

/** As `release`, for the received message around a frame's body. The body must not be used afterwards. */
export function releaseMessage(body: Uint8Array, headerBytes: number): void {
  release(new Uint8Array(body.buffer, body.byteOffset - headerBytes, body.byteLength + headerBytes));
}
