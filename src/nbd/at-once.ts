/**
 * Small requests whose answer is ready in the call that reads them off the socket: what a page cache holds costs less than handing it to another
 * thread and back. The reply is made in its place in the outbox, header before data, and nothing is allocated but views.
 *
 * Whether a request can be done at once is the backend's to say (rule 7 of its contract); one that can not takes the other way
 * (`serving.ts`) as if nothing had been tried.
 */
import { KiB } from '../kit/sizes.ts';
import { command } from './constants.ts';
import type { Agreement } from './negotiation.ts';
import type { Outbox } from './outbox.ts';
import { dataHeaderBytes, encodeDataHeader, encodeSimpleReply, simpleReplyBytes } from './replies.ts';
import type { Request } from './requests.ts';
import { failureOf, type Result } from './serving.ts';

/** What others wait for on this thread while one is served. */
const atOnceBytesMax = 64 * KiB;

/**
 * `answered`: the reply is in the outbox, and `payload` is the caller's again. `refused`: it failed, to be answered. `later`: nothing happened.
 * `payload` is that of a WRITE, all of it.
 */
export function tryAtOnce(
  { backend, structured }: Agreement,
  request: Request,
  payload: Uint8Array | undefined,
  outbox: Outbox,
): 'answered' | 'later' | Extract<Result, { kind: 'failed' }> {
  const { cookie, offset, length } = request;
  if (length > atOnceBytesMax) return 'later';
  try {
    if (request.command === command.read && backend.readNow) {
      const headerBytes = structured ? dataHeaderBytes : simpleReplyBytes;
      const room = outbox.room(headerBytes + length);
      if (!backend.readNow(room.subarray(headerBytes), offset)) return 'later';
      if (structured) encodeDataHeader(cookie, offset, length, room);
      else encodeSimpleReply(cookie, 0, room);
      outbox.filled(headerBytes + length, length);
      return 'answered';
    }
    // A write that must be durable waits for the disk in any case.
    if (request.command === command.write && request.flags === 0 && payload && backend.writeNow?.(payload, offset)) {
      encodeSimpleReply(cookie, 0, outbox.room(simpleReplyBytes));
      outbox.filled(simpleReplyBytes, length);
      return 'answered';
    }
    return 'later';
  } catch (error) {
    return failureOf(error);
  }
}
