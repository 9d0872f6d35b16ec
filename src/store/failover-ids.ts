/** What failovers of a machine are called, and where their directories lie (`recovery/FAILOVER.md`). Beside them lies what counts them. */
import * as path from 'node:path';
import type { Files } from '../posix/files.ts';
import { machinePaths } from './machine-directory.ts';

export const failoverIdPattern = /^(test|unplanned)-([1-9][0-9]{0,8})$/;

export function failoversOf(data: string, machine: string): string {
  return path.join(machinePaths(data, machine).directory, 'failovers');
}

/** All there are, whatever their state, by number. */
export async function listFailoverIds(files: Files, data: string, machine: string): Promise<string[]> {
  const ids = (await files.list(failoversOf(data, machine))).filter((name) => failoverIdPattern.test(name));
  return ids.sort((a, b) => failoverNumber(a) - failoverNumber(b));
}

/** 0: it is no failover's id. */
export function failoverNumber(id: string): number {
  return Number(failoverIdPattern.exec(id)?.[2] ?? 0);
}
