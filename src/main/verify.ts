/** Composition of `verify`: which points of a target's directory are good. */
import { availableParallelism, tmpdir } from 'node:os';
import * as path from 'node:path';
import type { MachineCheck, Progress, VerifiedPoint, VerifyReport, VerifyRequest } from '../cli/roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { ReadPool } from '../recovery/read-pool.ts';
import { checkDisk, structureOf, type CheckedPoint, type CheckOptions } from '../recovery/verify.ts';
import { machinePaths } from '../store/machine-directory.ts';
import { MachineSurvey } from '../store/machine-survey.ts';
import type { PointsView } from '../store/points-view.ts';
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

function wantedPoints(view: PointsView, choice: VerifyRequest['point']): (point: number) => boolean {
  if (choice === 'all') return () => true;
  const last = view.points.at(-1)?.point;
  const proven = view.points.findLast(({ point }) => view.stateOf(point) === 'proven')?.point;
  const wanted = choice === 'latest' ? last : choice === 'proven' ? proven : choice;
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

async function verifyMachine(work: Work, machine: string): Promise<{ check: MachineCheck; points: VerifiedPoint[] }> {
  const { parts, request, share } = work;
  const scratch = path.join(tmpdir(), `tidemark-verify-${parts.random.bytes(8).toString('hex')}`);
  let survey: MachineSurvey | null = null;
  try {
    survey = await surveyOf(work, machine, scratch);
    const findings = structureOf(survey);
    const wanted = wantedPoints(survey.points, request.point);
    const points: VerifiedPoint[] = [];
    const { disks } = survey.facts;
    const named = disks.filter(({ name }) => request.disk === undefined || name === request.disk);
    if (named.length === 0 && request.disk !== undefined) {
      const names = disks.map(({ name }) => name).join(', ') || 'none';
      throw new Problem('not-found', `machine ${machine} has no disk ${request.disk}`, {
        remedy: `its disks: ${names}`,
      });
    }
    for (const disk of named) {
      const size = survey.points.lastPoint?.disks.find(({ no }) => no === disk.no)?.size ?? 0;
      const found = await checkDisk(survey, disk, wanted, { ...work, clock: parts.clock, progress: share.begin(size) });
      findings.push(...found.findings);
      points.push(...found.points.map((point) => verifiedPoint(machine, point, work.key !== null)));
    }
    return { check: { machine, points: survey.points.points.length, findings }, points };
  } catch (error) {
    if (!isProblem(error) || error.code !== 'damaged') throw error;
    const findings = [{ severity: 'damage' as const, text: `${error.message}: none of its points could be checked` }];
    return { check: { machine, points: null, findings }, points: [] };
  } finally {
    await survey?.close();
    await parts.files.removeTree(scratch);
  }
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
    for (const name of names) {
      const found = await verifyMachine(work, name);
      machines.push(found.check);
      points.push(...found.points);
    }
    const whole = machines.every(({ findings }) => findings.every(({ severity }) => severity === 'note'));
    if (points.length === 0 && whole) {
      throw new Problem('not-found', `${request.data} holds no point to verify`, {
        remedy: 'name the directory of a target that has points',
      });
    }
    const ok = whole && points.every((point) => point.ok);
    const content = key !== null ? 'checked' : request.content ? 'no-key' : 'left-out';
    const bodies = readsBodies(request, key) ? 'checked' : 'left-out';
    return { ok, content, bodies, machines, points, seconds: (clock.monotonicMs() - started) / 1000 };
  });
}
