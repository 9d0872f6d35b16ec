/**
 * A disk image over the product's own NBD server, read and written on the splitter's own ways, and nothing remembered of it: no change log, no gate, no
 * cuts. What the splitter costs on top is what tracking costs a writer.
 *
 * A program of its own, started as `node untracked-disk.js IMAGE SOCKET`. SIGTERM ends it.
 */
import { fileURLToPath } from 'node:url';
import { openImage, readWhole } from '../../src/capture/image.ts';
import { clientReadBytesMax, QuickReads } from '../../src/capture/quick-reads.ts';
import { QuickWrites } from '../../src/capture/quick-writes.ts';
import { systemClock as clock } from '../../src/kit/clock.ts';
import { Problem } from '../../src/kit/problem.ts';
import { limits } from '../../src/limits.ts';
import type { Backend } from '../../src/nbd/backend.ts';
import { serveNbd } from '../../src/nbd/server.ts';
import { posixFiles as files } from '../../src/posix/files.ts';

/** This program. */
export const untrackedDiskPath = fileURLToPath(import.meta.url);

async function untracked(path: string): Promise<Backend> {
  const image = await openImage(files, path, 'write');
  const reads = new QuickReads(image, clientReadBytesMax);
  const writes = new QuickWrites(image, clock);
  const size = image.facts().size;
  return {
    size,
    readOnly: false,
    multiConnection: true,
    preferredBytes: limits.disk.blockBytesDefault,
    read: (into, offset) => readWhole(image, into, offset),
    async write(data, offset, fua) {
      await image.write([data], offset);
      if (fua) await image.datasync();
    },
    readNow: (into, offset) => reads.tryRead(into, offset),
    writeNow(data, offset) {
      const takes = writes.takes(data.byteLength, offset);
      if (takes) writes.write(data, offset);
      return takes;
    },
    flush: () => image.datasync(),
    zero() {
      throw new Problem('EINVAL', 'nobody measures zeroing here');
    },
    extents: (_offset, length) => Promise.resolve([{ length, zero: false, hole: false }]),
  };
}

if (process.argv[1] === untrackedDiskPath) {
  const [, , image = '', unixPath = ''] = process.argv;
  const server = await serveNbd({
    exports: new Map([['disk0', await untracked(image)]]),
    listen: { unixPath },
    clock,
    files,
  });
  process.once('SIGTERM', () => void server.close().then(() => process.exit(0)));
}
