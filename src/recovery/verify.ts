/**
 * What of a machine's store is good, told from its files alone: segments (headers, checks, digests, chains, extents), `points.log`, the root of
 * every disk at every point over the leaves of its records, and, with the key, the content of every block at every point.
 *
 * A point is good when its root matches and none of the versions it selects is damaged. Damage that no kept point needs does not make a point bad,
 * but is told: it is a finding, and a store with findings is not whole.
 *
 * Not damage, by rule (FORMAT.md, Known end): what lies above what points rely on, where the last segment was being written. And what files can
 * not tell: that the newest points were there once, when `points.log` was put back and nothing was written since. The agent knows its newest
 * acknowledged point, and finds that at its next session.
 */
import type { Clock } from '../kit/clock.ts';
import { isProblem } from '../kit/problem.ts';
import { DiskHistory } from '../store/disk-history.ts';
import type { DiskFacts } from '../store/machine-directory.ts';
import type { MachineSurvey } from '../store/machine-survey.ts';
import type { Damage } from '../store/segment-walk.ts';
import type { DiskKeys, Vault } from '../store/vault.ts';
import type { RunReader } from './read-pool.ts';
import { checkBlocks, suspectBlocks, type BlocksOfPoint } from './verify-blocks.ts';
import { checkRoots } from './verify-roots.ts';

export interface Finding {
  /** `note`: nothing is wrong. */
  readonly severity: 'damage' | 'note';
  readonly text: string;
}

export interface CheckedPoint {
  readonly disk: string;
  readonly point: number;
  readonly ok: boolean;
  readonly rootMatches: boolean;
  readonly root: string;
  /** Null: it could not be checked. Without a key, `damaged` are blocks that take pages from ranges that do not check. */
  readonly content: BlocksOfPoint | null;
}

interface KeyAndPool {
  readonly vault: Vault;
  readonly pool: RunReader;
}

export interface CheckOptions {
  /** Null: content is not checked. */
  readonly key: KeyAndPool | null;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Bytes of a disk at its newest point dealt with so far. */
  readonly progress: (doneBytes: number) => void;
}

/** What the walk through the segments and `points.log` found. */
export function structureOf(survey: MachineSurvey): Finding[] {
  const { outcome, points, tail, newest, facts } = survey;
  const damage = (text: string): Finding => ({ severity: 'damage', text });
  const note = (text: string): Finding => ({ severity: 'note', text });
  const findings = outcome.damage.map((range) => damage(damageText(range)));
  const last = points.points.length;
  if (tail === 'damaged')
    findings.push(damage(`points.log is damaged behind point ${last}; later points can not be told`));
  if (tail === 'torn') findings.push(note(`points.log ends in the beginning of a record, behind point ${last}`));
  const epoch = points.epoch?.epoch ?? -1;
  if (newest.epoch > epoch)
    findings.push(
      damage(`points.log is an older one: its last epoch is ${epoch}, a layer is of epoch ${newest.epoch}`),
    );
  if (newest.base > last)
    findings.push(
      damage(`points.log is an older one: it ends with point ${last}, a layer builds on point ${newest.base}`),
    );
  const known = new Set(facts.disks.map(({ no }) => no));
  const strange = new Set(
    points.points.flatMap(({ disks }) => disks.map(({ no }) => no)).filter((no) => !known.has(no)),
  );
  for (const no of strange) findings.push(damage(`points hold disk number ${no}, which machine.json does not know`));
  if (outcome.torn) {
    const { segment, offset } = outcome.torn;
    findings.push(note(`segment ${segment} ends in a torn write at byte ${offset}, above all that points rely on`));
  }
  return findings;
}

function damageText({ segment, offset, length, batch }: Damage): string {
  const what = batch ? ` (batch ${batch.batch} of layer ${batch.seq}, disk number ${batch.diskNo})` : '';
  return `segment ${segment} is damaged: ${length} bytes from byte ${offset} on${what}`;
}

/** One disk at the points wanted. @throws Problem `interrupted`, `read-failed`, `shutting-down`. */
export async function checkDisk(
  survey: MachineSurvey,
  disk: DiskFacts,
  wanted: (point: number) => boolean,
  options: CheckOptions,
): Promise<{ points: CheckedPoint[]; findings: Finding[] }> {
  const history = new DiskHistory(survey, disk, wanted);
  const findings: Finding[] = [];
  const roots = await checkRoots(history, options);
  const contents = options.key
    ? await openedBlocks(history, options, options.key, findings)
    : await suspectBlocks(history, survey.outcome.damage, options);
  const points = history.points.map(({ point, root }, at): CheckedPoint => {
    const content = contents?.[at] ?? null;
    const rootMatches = roots[at] === true;
    const ok = rootMatches && content !== null && content.damaged === 0;
    return { disk: disk.name, point, root, rootMatches, content, ok };
  });
  return { points, findings };
}

/** Null when one of the disk's keys does not open. */
async function openedBlocks(
  history: DiskHistory,
  options: CheckOptions,
  { vault, pool }: KeyAndPool,
  findings: Finding[],
): Promise<BlocksOfPoint[] | null> {
  const { name, id, keys: wrapped } = history.disk;
  const diskId = Buffer.from(id, 'hex');
  let keys: ReadonlyMap<number, DiskKeys>;
  try {
    keys = new Map(wrapped.map((each) => [each.version, vault.unwrapDiskKeys(diskId, each)]));
  } catch (error) {
    if (!isProblem(error) || error.code !== 'damaged') throw error;
    findings.push({ severity: 'damage', text: `${error.message}: the content of ${name} could not be checked` });
    return null;
  }
  return checkBlocks(history, { ...options, keys, pool });
}
