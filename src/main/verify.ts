/** Composition of `verify`: which points of a target's directory are good. */
import { availableParallelism, tmpdir } from 'node:os';
import * as path from 'node:path';
import type { MachineCheck, Progress, VerifiedPoint, VerifyReport, VerifyRequest } from '../cli/roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { ReadPool } from '../recovery/read-pool.ts';
import { checkDisk, structureOf, type CheckedPoint, type CheckOptions } from '../recovery/verify.ts';
import { lockHolder } from '../posix/lock.ts';
import { machinePaths, type DiskFacts } from '../store/machine-directory.ts';
import { MachineSurvey } from '../store/machine-survey.ts';
import { holdPoints } from '../store/points-in-use.ts';
import { readPoints } from '../store/points-log.ts';
import { Vault } from '../store/vault.ts';
import { readBootId } from './boot-id.ts';
import type { Closers, Parts } from './parts.ts';
import { closing, storeFacts } from './point-access.ts';

/** Content is left out when it is not asked for, and when there is no key file at all. */
async function keyOf(parts: Parts, closers: Closers, request: VerifyRequest): Promise<CheckOptions['key']> {
  const { files, random } = parts;
  const { vault: expected } = await storeFacts(parts, request.data);
  if (!request.content || !(await files.exists(request.vault))) return null;
  const vault = await Vault.open({ files, random, keyFile: request.vault, expected });
  const pool = new ReadPool({ threads: availableParallelism() });
  closers.add(() => pool.close());
  return { vault, pool };
}

/** Also those whose `machine.json` is gone. */
async function machinesIn({ files }: Parts, request: VerifyRequest): Promise<string[]> {
  if (request.machine !== undefined) {
    if (await files.exists(machinePaths(request.data, request.machine).directory)) return [request.machine];
    throw new Problem('not-found', `${request.data} holds no machine ${request.machine}`, {
      remedy: 'run tidemark points to see which there are',
    });
  }
  const names = await files.list(path.join(request.data, 'machines'));
  const kept: string[] = [];
  for (const name of names) {
    // One that is being made has no points yet.
    if (await files.exists(path.join(request.data, 'machines', name, 'points.log'))) kept.push(name);
  }
  return kept;
}

/** @throws Problem `not-found` of a point that is no longer kept. */
function wantedPoints(survey: MachineSurvey, choice: VerifyRequest['point']): (point: number) => boolean {
  const { points: view, machine } = survey;
  if (choice === 'all') return (point) => !view.isRetired(point);
  const last = view.kept.at(-1)?.point;
  const proven = view.kept.findLast(({ point }) => view.stateOf(point) === 'proven')?.point;
  const wanted = choice === 'latest' ? last : choice === 'proven' ? proven : choice;
  if (wanted !== undefined && view.isRetired(wanted)) throw view.retiredProblem(machine, wanted);
  return (point) => point === wanted;
}

/** Progress over several pieces of work whose sizes are not known before each begins. */
class Share {
  #done = 0;
  #total: number;
  readonly #progress: Progress;

  constructor(progress: Progress, totalBytes: number) {
    this.#progress = progress;
    this.#total = totalBytes;
  }

  begin(bytes: number): (doneBytes: number) => void {
    const before = this.#done;
    this.#done += bytes;
    this.#total = Math.max(this.#total, this.#done);
    return (doneBytes) => {
      this.#progress.report(before + Math.min(doneBytes, bytes), this.#total);
    };
  }
}

async function bytesOfSegments({ files }: Parts, data: string, machine: string): Promise<number> {
  const { segments } = machinePaths(data, machine);
  let bytes = 0;
  for (const name of await files.list(segments)) bytes += (await files.facts(path.join(segments, name))).size;
  return bytes;
}

function verifiedPoint(machine: string, { content, ...point }: CheckedPoint, opened: boolean): VerifiedPoint {
  return {
    machine,
    ...point,
    blocks: opened ? (content?.blocks ?? null) : null,
    damagedBlocks: content?.damagedBlocks ?? [],
    damagedBlockCount: content?.damaged ?? 0,
  };
}

/** What one point needs is read for its content, and so matched with its tags; without the key the digests have to do. */
function readsBodies(request: VerifyRequest, key: CheckOptions['key']): boolean {
  return request.point === 'all' || key === null;
}

interface Work {
  readonly parts: Parts;
  readonly request: VerifyRequest;
  readonly key: CheckOptions['key'];
  readonly signal: AbortSignal;
  readonly share: Share;
}

async function surveyOf(
  { parts, request, key, signal, share }: Work,
  machine: string,
  scratch: string,
): Promise<MachineSurvey> {
  const { files, clock } = parts;
  const digests = readsBodies(request, key);
  const bytes = await bytesOfSegments(parts, request.data, machine);
  const progress = share.begin(digests ? 2 * bytes : bytes);
  let [before, sinceTurn] = [0, 0];
  return MachineSurvey.make({
    files,
    data: request.data,
    machine,
    bootId: await readBootId(files),
    scratch,
    check: digests ? 'digests' : 'headers',
    visit: async ({ position, end }) => {
      before += end.offset - position.offset;
      progress(before);
      if (signal.aborted) throw new Problem('interrupted', 'the verification was interrupted');
      sinceTurn += 1;
      if (sinceTurn % 64 === 0) await clock.turn();
    },
  });
}

interface Verified {
  readonly check: MachineCheck;
  /** For who asked for another point. */
  readonly range: string;
  readonly points: VerifiedPoint[];
}

/** Segments that a target folds away meanwhile are no damage: then it is looked at again. */
const attemptsMax = 3;

async function verifyMachine(work: Work, closers: Closers, machine: string): Promise<Verified> {
  const { files, clock, random } = work.parts;
  const { data } = work.request;
  // Nothing is written where no target is that could fold.
  if ((await lockHolder(files, clock, data)) !== null) {
    const hold = await holdPoints({ files, clock, random, data, machine, role: 'verify', points: 'all' });
    closers.add(() => hold.release());
  }
  for (let attempt = 1; ; attempt += 1) {
    const scratch = path.join(tmpdir(), `tidemark-verify-${random.bytes(8).toString('hex')}`);
    let survey: MachineSurvey | null = null;
    try {
      survey = await surveyOf(work, machine, scratch);
      const found = await checkSurvey(work, survey);
      if (isWhole(found) || attempt === attemptsMax || !(await wasFolded(work, survey))) return found;
    } catch (error) {
      if (!isProblem(error)) throw error;
      if (error.code === 'index-failed') throw noRoom(error);
      if (error.code !== 'damaged') throw error;
      const text = `${error.message}: none of its points could be checked`;
      const check: MachineCheck = { machine, points: null, findings: [{ severity: 'damage', text }] };
      return { check, range: `${machine} can not be read`, points: [] };
    } finally {
      await survey?.close();
      await files.removeTree(scratch);
    }
  }
}

function noRoom(cause: Problem): Problem {
  return new Problem('full', `no room in ${tmpdir()} for an index of the store: ${cause.message}`, {
    remedy: 'make room there, or set TMPDIR: it takes about 100 bytes per stored record',
    cause,
  });
}

async function checkSurvey(work: Work, survey: MachineSurvey): Promise<Verified> {
  const { request, share, parts, key } = work;
  const { machine } = survey;
  const findings = structureOf(survey);
  const wanted = wantedPoints(survey, request.point);
  const points: VerifiedPoint[] = [];
  for (const disk of disksOf(survey, request.disk)) {
    const size = survey.points.lastPoint?.disks.find(({ no }) => no === disk.no)?.size ?? 0;
    const found = await checkDisk(survey, disk, wanted, { ...work, clock: parts.clock, progress: share.begin(size) });
    findings.push(...found.findings);
    points.push(...found.points.map((point) => verifiedPoint(machine, point, key !== null)));
  }
  const { kept } = survey.points;
  return { check: { machine, points: kept.length, findings }, range: rangeOf(machine, kept), points };
}

function rangeOf(machine: string, kept: readonly { readonly point: number }[]): string {
  const [first, last] = [kept[0], kept.at(-1)];
  return first && last ? `${machine} has points ${first.point} to ${last.point}` : `${machine} has none`;
}

function nothingToVerify({ data, machine, point }: VerifyRequest, ranges: readonly string[]): Problem {
  const where = machine === undefined ? data : `machine ${machine}`;
  if (ranges.length === 0 || point === 'all')
    return new Problem('not-found', `${where} holds no point to verify`, {
      remedy: 'name the directory of a target that has points',
    });
  const what = typeof point === 'number' ? `point ${point}` : `${point} point`;
  return new Problem('not-found', `${where} has no ${what}`, { remedy: ranges.join('; ') });
}

function isWhole({ check, points }: Pick<Verified, 'check' | 'points'>): boolean {
  return check.findings.every(({ severity }) => severity === 'note') && points.every(({ ok }) => ok);
}

async function wasFolded({ parts, request }: Work, { machine, facts, points }: MachineSurvey): Promise<boolean> {
  const { pointsLog } = machinePaths(request.data, machine);
  const machineId = Buffer.from(facts.id, 'hex');
  const { view } = await readPoints({ files: parts.files, path: pointsLog, machineId });
  return view.removed.size > points.removed.size;
}

/** @throws Problem `not-found`. */
function disksOf({ machine, facts }: MachineSurvey, name: string | undefined): readonly DiskFacts[] {
  const named = facts.disks.filter((disk) => name === undefined || disk.name === name);
  if (named.length > 0 || name === undefined) return named;
  const names = facts.disks.map((disk) => disk.name).join(', ') || 'none';
  throw new Problem('not-found', `machine ${machine} has no disk ${name}`, { remedy: `its disks: ${names}` });
}

export function verify(
  parts: Parts,
  request: VerifyRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const { clock } = parts;
  return closing(async ({ closers }) => {
    const started = clock.monotonicMs();
    const key = await keyOf(parts, closers, request);
    const names = await machinesIn(parts, request);
    let total = 0;
    for (const name of names) total += 2 * (await bytesOfSegments(parts, request.data, name));
    const work = { parts, request, key, signal, share: new Share(progress, total) };
    const machines: MachineCheck[] = [];
    const points: VerifiedPoint[] = [];
    const ranges: string[] = [];
    for (const name of names) {
      const found = await verifyMachine(work, closers, name);
      machines.push(found.check);
      points.push(...found.points);
      ranges.push(found.range);
    }
    const ok = machines.every((check) => isWhole({ check, points }));
    if (points.length === 0 && ok) throw nothingToVerify(request, ranges);
    const content = key !== null ? 'checked' : request.content ? 'no-key' : 'left-out';
    const bodies = readsBodies(request, key) ? 'checked' : 'left-out';
    return { ok, content, bodies, machines, points, seconds: (clock.monotonicMs() - started) / 1000 };
  });
}
