/** A command's side of `admin.sock`. */
import { request } from 'node:http';
import * as path from 'node:path';
import { z } from 'zod';
import { Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import { shortPathOf } from '../posix/short-path.ts';
import { adminSocketName, asidesPath, type AsideRequest } from './admin.ts';

const problemSchema = z.object({
  code: z.string().max(64),
  message: z.string().max(4096),
  remedy: z.string().max(4096),
  retryable: z.boolean(),
});

/**
 * Has the target that runs on `data` write the record.
 * @returns false: nobody answers there. @throws Problem the target's own, `unreachable` (whether it was written is not known).
 */
export async function askTarget(data: string, wanted: AsideRequest): Promise<boolean> {
  const short = shortPathOf(data);
  try {
    const answer = await post(path.join(short.path, adminSocketName), JSON.stringify(wanted));
    if (answer === null) return false;
    if (answer.status === 200) return true;
    throw problemOf(answer.text);
  } finally {
    short.close();
  }
}

function unreachable(message: string, cause?: unknown): Problem {
  return new Problem('unreachable', `the target did not answer: ${message}`, {
    remedy: 'look at the log of the target, then ask again',
    retryable: true,
    cause,
  });
}

function problemOf(text: string): Problem {
  try {
    const parsed = problemSchema.safeParse(JSON.parse(text));
    if (parsed.success) {
      const { code, message, remedy, retryable } = parsed.data;
      return new Problem(code, message, { remedy, retryable });
    }
  } catch {
    // Not even JSON.
  }
  return unreachable(text.slice(0, 200));
}

/** Null: nobody listens. */
function post(socketPath: string, body: string): Promise<{ status: number; text: string } | null> {
  const { requestMs, bodyBytesMax } = limits.admin;
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const asked = request({ socketPath, method: 'POST', path: asidesPath, headers, timeout: requestMs });
    asked.on('timeout', () => asked.destroy(new Error('no answer in time')));
    asked.on('error', (error) => {
      if (['ENOENT', 'ECONNREFUSED'].includes(systemCode(error) ?? '')) resolve(null);
      else reject(unreachable(error.message, error));
    });
    asked.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => {
        text += piece;
        if (text.length > bodyBytesMax) response.destroy(new Error('the answer is too long'));
      });
      response.on('error', (error) => {
        reject(unreachable(error.message, error));
      });
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, text });
      });
    });
    asked.end(body);
  });
}
