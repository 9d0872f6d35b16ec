import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import { systemClock } from '../../src/kit/clock.ts';
import { openLmdbState } from '../../src/control/state-lmdb.ts';
import { describeState } from './state-contract.ts';

describeState('LMDB', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'tidemark-state-'));
  return {
    open: () => Promise.resolve(openLmdbState(directory, systemClock)),
    remove: () => rm(directory, { recursive: true, force: true }),
  };
});
