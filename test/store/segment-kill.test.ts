/** A real writer on a real file system, killed in the middle of its work. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { expect, it } from 'vitest';
import { systemClock } from '../../src/kit/clock.ts';
import { posixFiles } from '../../src/posix/files.ts';
import { openSegmentLog } from '../../src/store/segment-recovery.ts';
import { appendLayer, machineId, nameOf, smallLimits } from './segment-fixture.ts';

const limits = { ...smallLimits, segmentBytesMax: 1 << 16, freeBytesStop: 0, freeBytesResume: 1 };

const writerCode = `
  const [, root, directory, first] = process.argv;
  const { systemClock } = await import(root + 'src/kit/clock.ts');
  const { posixFiles } = await import(root + 'src/posix/files.ts');
  const { openSegmentLog } = await import(root + 'src/store/segment-recovery.ts');
  const fixture = await import(root + 'test/store/segment-fixture.ts');
  const limits = ${JSON.stringify(limits)};
  const options = { files: posixFiles, clock: systemClock, directory, machineId: fixture.machineId, limits, extents: [], removed: new Set(),
    check: 'digests' };
  const { log } = await openSegmentLog(options, () => undefined);
  for (let seq = Number(first); ; seq += 1) {
    for (const name of await fixture.appendLayer(log, 0, seq, 7, 333)) process.stdout.write(name + '\\n');
  }
`;

it('what a killed writer had acknowledged is replayed, and another writer goes on, three times over', async () => {
  const home = await mkdtemp(`${tmpdir()}/tidemark-kill-`);
  const directory = `${home}/segments`;
  const root = new URL('../../', import.meta.url).href;
  const acknowledged: string[] = [];
  try {
    for (let round = 1; round <= 3; round += 1) {
      const args = ['--input-type=module', '-e', writerCode, root, directory, String(round * 10_000)];
      const writer = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
      const gone = once(writer, 'close');
      let said = '';
      writer.stdout.setEncoding('utf8').on('data', (piece: string) => {
        said += piece;
        if (said.length > 20_000 * round) writer.kill('SIGKILL');
      });
      await gone;
      expect(writer.signalCode).toBe('SIGKILL');
      acknowledged.push(...said.split('\n').slice(0, -1));
      const seen: string[] = [];
      const options = {
        files: posixFiles,
        clock: systemClock,
        directory,
        machineId,
        limits,
        extents: [],
        removed: new Set<number>(),
      };
      const { log, outcome } = await openSegmentLog(
        { ...options, check: 'digests' },
        (entry) => void seen.push(nameOf(entry)),
      );
      expect(outcome.damage).toEqual([]);
      const present = new Set(seen);
      expect(acknowledged.filter((name) => !present.has(name))).toEqual([]);
      acknowledged.push(...(await appendLayer(log, 0, round * 10_000 + 9_000, 2)));
      await log.close();
    }
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});
