/** Small text files named on the command line: configuration, registration keys. */
import { Problem, systemCode } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Files } from '../posix/files.ts';

const { textFileBytesMax } = limits.cli;

function refuseLarge(name: string): never {
  throw new Problem('bad-argument', `${name} is larger than ${textFileBytesMax} bytes`, {
    remedy: 'name the right file',
  });
}

async function readStream(stream: AsyncIterable<unknown>): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    const part = Buffer.isBuffer(chunk) ? chunk : Buffer.from(String(chunk));
    bytes += part.byteLength;
    if (bytes > textFileBytesMax) refuseLarge('standard input');
    chunks.push(part);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Text of `name`; `-` is standard input. Bounded before it is read. */
export async function readText(files: Files, stdin: AsyncIterable<unknown>, name: string): Promise<string> {
  if (name === '-') return readStream(stdin);
  try {
    const { size, kind } = await files.facts(name);
    if (kind === 'directory') throw new Problem('bad-argument', `${name} is a directory`, { remedy: 'name a file' });
    if (size > textFileBytesMax) refuseLarge(name);
    return (await files.readWhole(name)).toString('utf8');
  } catch (cause) {
    if (systemCode(cause) === 'ENOENT')
      throw new Problem('not-found', `${name} does not exist`, { remedy: 'check the path', cause });
    if (systemCode(cause) === 'EACCES')
      throw new Problem('bad-argument', `${name} can not be read`, { remedy: 'check its permissions', cause });
    throw cause;
  }
}
