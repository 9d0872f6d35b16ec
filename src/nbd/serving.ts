/**
 * Carries one checked request out on its backend and says what to answer. No sockets here.
 */
import { isProblem, messageOf } from '../kit/problem.ts';
import { invariant } from '../kit/invariant.ts';
import { limits } from '../limits.ts';
import type { Backend, Extent } from './backend.ts';
import { command, commandFlag, nbdError, type NbdErrorName } from './constants.ts';
import { encodeBlockStatus, encodeDataHeader, encodeErrorChunk, encodeSimpleReply } from './replies.ts';
import type { Agreement } from './negotiation.ts';
import type { Refusal, Request } from './requests.ts';

/** What a request came to. `internal`: the failure is not one the backend names on purpose. */
export type Result =
  | { readonly kind: 'done' }
  | { readonly kind: 'data'; readonly bytes: Buffer }
  | { readonly kind: 'extents'; readonly extents: readonly Extent[] }
  | { readonly kind: 'failed'; readonly refusal: Refusal; readonly internal: boolean };

/**
 * Never rejects. `buffer` is as long as the request: the payload of a WRITE, the room for a READ, undefined otherwise; the
 * backend has done with it when this resolves.
 */
export async function carryOut(backend: Backend, request: Request, buffer: Buffer | undefined): Promise<Result> {
  const { offset, length } = request;
  const fua = (request.flags & commandFlag.fua) !== 0;
  try {
    switch (request.command) {
      case command.read:
        invariant(buffer, 'a read has room');
        await backend.read(buffer, offset);
        return { kind: 'data', bytes: buffer };
      case command.write:
        invariant(buffer, 'a write has its payload');
        await backend.write(buffer, offset, fua);
        return { kind: 'done' };
      case command.flush:
        await backend.flush();
        return { kind: 'done' };
      case command.trim:
        await backend.zero(offset, length, fua, true);
        return { kind: 'done' };
      case command.writeZeroes:
        await backend.zero(offset, length, fua, (request.flags & commandFlag.noHole) === 0);
        return { kind: 'done' };
      case command.blockStatus: {
        const extents = await backend.extents(offset, length);
        const most = (request.flags & commandFlag.requireOne) !== 0 ? 1 : limits.nbd.extentsPerReplyMax;
        return { kind: 'extents', extents: withinRequest(extents, length, most) };
      }
      default:
        invariant(false, `command ${request.command} was let through`);
    }
  } catch (error) {
    return failureOf(error);
  }
}

/** The parts of the answer in the order they are sent. */
export function encodeResult(agreement: Agreement, request: Request, result: Result): readonly Buffer[] {
  const { cookie } = request;
  switch (result.kind) {
    case 'done':
      // Without data a simple reply is allowed at any time, and shorter.
      return [encodeSimpleReply(cookie, 0)];
    case 'data':
      if (!agreement.structured) return [encodeSimpleReply(cookie, 0), result.bytes];
      return [encodeDataHeader(cookie, request.offset, result.bytes.byteLength), result.bytes];
    case 'extents':
      return [encodeBlockStatus(cookie, result.extents)];
    case 'failed': {
      const { error, message } = result.refusal;
      if (!agreement.structured) return [encodeSimpleReply(cookie, nbdError[error])];
      return [encodeErrorChunk(cookie, nbdError[error], message)];
    }
  }
}

/** Errors a backend may name (rule 2 of its contract). */
const backendErrors: ReadonlySet<string> = new Set(['EIO', 'ENOSPC', 'EINVAL', 'EPERM', 'ESHUTDOWN']);

function isBackendError(code: string): code is NbdErrorName {
  return backendErrors.has(code);
}

export function failureOf(error: unknown): Extract<Result, { kind: 'failed' }> {
  if (isProblem(error) && isBackendError(error.code)) {
    return { kind: 'failed', refusal: { error: error.code, message: error.message }, internal: false };
  }
  return { kind: 'failed', refusal: { error: 'EIO', message: messageOf(error) }, internal: true };
}

/** At most `most` extents, cut to the request, alike neighbours joined, as the protocol asks. */
function withinRequest(extents: readonly Extent[], length: number, most: number): readonly Extent[] {
  const kept: { length: number; zero: boolean; hole: boolean }[] = [];
  let left = length;
  for (const extent of extents) {
    const step = Math.min(extent.length, left);
    if (step <= 0) break;
    const last = kept.at(-1);
    if (last?.zero === extent.zero && last.hole === extent.hole) last.length += step;
    else if (kept.length === most) break;
    else kept.push({ length: step, zero: extent.zero, hole: extent.hole });
    left -= step;
  }
  invariant(kept.length > 0, 'a backend names at least one extent');
  return kept;
}
