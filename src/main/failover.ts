/** Composition of `tidemark failover`: the steps of FAILOVER.md, each by whoever holds the turn of the machine. */
import { tmpdir } from 'node:os';
import type {
  DiskTrouble,
  FailoverReport,
  FailoverRequest,
  FailoverRoles,
  MachineOfVault,
} from '../cli/failover-roles.ts';
import { isProblem, Problem } from '../kit/problem.ts';
import { MiB } from '../kit/sizes.ts';
import { limits } from '../limits.ts';
import { lockHolder } from '../posix/lock.ts';
import { clientDirectory, writeExportTls } from '../recovery/export-tls.ts';
import {
  listFailovers,
  newFailoverDirectory,
  type Failover,
  type FailoverDirectory,
  type FailoverProcess,
} from '../recovery/failover-directory.ts';
import { listMachines, readMachineFacts } from '../store/machine-directory.ts';
import type { FailoverBody, PointBody } from '../store/points-record.ts';
import type { PointsView } from '../store/points-view.ts';
import { makeExportCertificates } from '../transport/export-certificates.ts';
import { writeAside } from './data-writer.ts';
import { machineWordsOf, writeMachine } from './failover-machine.ts';
import { choosePointFor } from './failover-point.ts';
import { endServing } from '../recovery/failover-process.ts';
import { diskTroubles } from './failover-troubles.ts';
import { failoverNamed, inTurn, pointsSaid, removeFailover, served, type Turn } from './failover-turn.ts';
import { qemuImageWords } from '../recovery/qemu.ts';
import type { Parts } from './parts.ts';
import { openVault, storeFacts } from './point-access.ts';

export function testFailover(parts: Parts, request: FailoverRequest): Promise<FailoverReport> {
  return inTurn(parts, request, async (turn) => {
    const { place, process } = await begin(turn, 'test', request);
    return reportRunning(turn, place, process);
  });
}

export function unplannedFailover(parts: Parts, request: FailoverRequest): Promise<FailoverReport> {
  return inTurn(parts, request, async (turn) => {
    const open = turn.points.failover;
    if (open) return goOn(turn, open, request.point);
    const { place, failover, process } = await begin(turn, 'unplanned', request);
    const { id, generation, point } = failover;
    const atMs = parts.clock.wallMs();
    try {
      await writeAside(parts, request.data, request.machine, {
        type: 'failover',
        body: { id, step: 'begun', generation, point, atMs },
      });
    } catch (error) {
      // Where nobody knows whether it was written, the next run sees: it goes on, or removes what was prepared.
      if (!isProblem(error) || error.code !== 'unreachable') await removeFailover(turn, place);
      throw error;
    }
    return reportRunning(turn, place, process);
  });
}

/** Steps 1 and 2: all that can go wrong goes wrong before anything was promised, and leaves nothing behind. */
async function begin(
  turn: Turn,
  kind: Failover['kind'],
  request: FailoverRequest,
): Promise<{ place: FailoverDirectory; failover: Failover; process: FailoverProcess }> {
  const { parts, points } = turn;
  const body = choosePointFor(request.machine, points, request.point);
  await openVault(parts, request);
  const place = await newFailoverDirectory(parts.files, request.data, request.machine, kind);
  const failover = await plan(turn, { kind, place, body }, request);
  try {
    await place.create(failover);
    if ('tls' in failover.listen) {
      const made = await makeExportCertificates(failover.listen.tls.host, parts.clock.wallMs());
      await writeExportTls(parts.files, place.tls, made);
    }
    return { place, failover, process: await served(turn, place) };
  } catch (error) {
    await removeFailover(turn, place).catch(() => undefined);
    throw error;
  }
}

async function plan(
  { parts, points, place: { data, machine } }: Turn,
  made: { kind: Failover['kind']; place: FailoverDirectory; body: PointBody },
  { listen, spaceBytes }: FailoverRequest,
): Promise<Failover> {
  const { kind, place, body } = made;
  const facts = await readMachineFacts(parts.files, data, machine);
  const disks = body.disks.map(({ no, size }) => ({
    no,
    name: facts?.disks.find((disk) => disk.no === no)?.name ?? `disk-${no}`,
    size,
  }));
  const { overlayBytesMax } = limits.recovery;
  const free = await parts.files.freeBytes(data);
  if (spaceBytes !== undefined && spaceBytes > free) {
    throw new Problem('full', `${data} has ${free} bytes free, less than the ${spaceBytes} of --space`, {
      remedy: 'make room there, or say less',
    });
  }
  const everything = disks.reduce((sum, { size }) => sum + 2 * size + MiB, 0);
  return {
    format: 1,
    id: place.id,
    kind,
    machine,
    point: body.point,
    generation: points.generation + (kind === 'unplanned' ? 1 : 0),
    createdMs: parts.clock.wallMs(),
    state: 'starting',
    disks,
    listen: listenAt(parts, place, listen),
    spaceBytes: spaceBytes ?? (kind === 'unplanned' ? everything : Math.min(overlayBytesMax, Math.floor(free / 2))),
    definition: points.definitionAt(body.point),
  };
}

/** Ports are the system's choice at first, and then stay. */
function listenAt({ random }: Parts, place: FailoverDirectory, listen: FailoverRequest['listen']): Failover['listen'] {
  if (listen === 'unix') return { socket: place.socket(tmpdir(), random.bytes(8).toString('hex')) };
  return listen === 'tcp' ? { host: '127.0.0.1', port: 0 } : { tls: { host: listen.tls, port: 0 } };
}

/** Where it is served by now. */
function withPort(listen: Failover['listen'], port: number): Failover['listen'] {
  if ('socket' in listen) return listen;
  return 'tls' in listen ? { tls: { ...listen.tls, port } } : { ...listen, port };
}

/** An unplanned failover that was begun: what is missing of it is made good. */
async function goOn(turn: Turn, open: FailoverBody, wanted: FailoverRequest['point']): Promise<FailoverReport> {
  const {
    points,
    place: { machine },
  } = turn;
  const point = wanted === undefined ? open.point : choosePointFor(machine, points, wanted).point;
  if (point !== open.point) {
    throw new Problem('bad-argument', `${machine} runs from point ${open.point} already: failover ${open.id}`, {
      remedy: `to start it from point ${point} instead, give up what was written there: tidemark failover cancel ${machine}`,
    });
  }
  const place = await failoverNamed(turn, open.id);
  if (!place) throw directoryGone(machine, open);
  return reportRunning(turn, place, await served(turn, place), open.step === 'committed' ? 'committed' : 'running');
}

function directoryGone(machine: string, { id, point }: FailoverBody): Problem {
  return new Problem('damaged', `${machine} was failed over to point ${point}, and the directory of ${id} is gone`, {
    remedy: `restore it from a copy, or give up what was written there: tidemark failover cancel ${machine}`,
  });
}

/** The last step: it is there from now on, and where it is served stays the same. */
export async function reportRunning(
  turn: Turn,
  place: FailoverDirectory,
  process: FailoverProcess,
  state: 'running' | 'committed' = 'running',
): Promise<FailoverReport> {
  const failover = await place.read();
  if (!failover) throw new Problem('not-found', `failover ${place.id} is over`);
  const port = Number(new URL(process.disks[0]?.uri ?? '').port);
  const now = { ...failover, state, listen: withPort(failover.listen, port) };
  if (JSON.stringify(now) !== JSON.stringify(failover)) await place.write(now);
  await writeMachine(turn.parts.files, place, now, process);
  return report(turn.parts, place, now, process, turn.points);
}

async function report(
  parts: Parts,
  place: FailoverDirectory,
  failover: Failover,
  process: FailoverProcess | null,
  points: PointsView,
): Promise<FailoverReport> {
  const { id, kind, machine, point, createdMs, state, generation, disks } = failover;
  const troubles = process ? await diskTroubles(parts, place, failover) : new Map<number, DiskTrouble>();
  return {
    ...{ id, kind, machine, point, createdMs, state, generation },
    cutTimeMs: points.point(point)?.cutTimeMs ?? null,
    served: process !== null,
    disks: disks.map(({ no, name, size }) => {
      const uri = process?.disks.find((disk) => disk.name === name)?.uri ?? null;
      const qemuImage = uri === null ? null : qemuImageWords(uri);
      return { name, size, uri, qemuImage, trouble: troubles.get(no) ?? null };
    }),
    certificates: 'tls' in failover.listen ? clientDirectory(place.tls) : null,
    ...(await machineWordsOf(parts.files, place, failover, process)),
    directory: place.path,
  };
}

export function cancelFailover(parts: Parts, request: MachineOfVault): Promise<{ id: string }> {
  const { data, machine } = request;
  return inTurn(parts, request, async (turn) => {
    const { points } = turn;
    const open = points.failover;
    if (!open) {
      const undone = turn.removed.find((id) => id.startsWith('unplanned-'));
      if (undone !== undefined) return { id: undone };
      throw new Problem('not-found', `${machine} is not failed over`, {
        remedy: 'tidemark failover list shows what there is',
      });
    }
    const { id, point } = open;
    if (open.step === 'committed') {
      throw new Problem('bad-argument', `failover ${id} of ${machine} was committed and can not be cancelled`, {
        remedy: 'bring the machine back by reverse replication',
      });
    }
    const place = await failoverNamed(turn, id);
    // Ended and locked first, so that nothing is written any more when the source is the primary again.
    const lock = place && (await endServing(place, parts, turn.identity));
    try {
      const generation = points.generation + 1;
      const atMs = parts.clock.wallMs();
      await writeAside(parts, data, machine, {
        type: 'failover',
        body: { id, step: 'cancelled', generation, point, atMs },
      });
      await place?.remove();
    } finally {
      await lock?.release();
    }
    return { id };
  });
}

export function commitFailover(parts: Parts, request: MachineOfVault): Promise<FailoverReport> {
  const { data, machine } = request;
  return inTurn(parts, request, async (turn) => {
    const open = turn.points.failover;
    if (!open) {
      throw new Problem('not-found', `${machine} is not failed over`, {
        remedy: 'tidemark failover list shows what there is',
      });
    }
    const place = await failoverNamed(turn, open.id);
    const failover = await place?.read();
    if (!place || !failover) throw directoryGone(machine, open);
    const { id, generation, point } = open;
    if (open.step === 'begun') {
      const atMs = parts.clock.wallMs();
      await writeAside(parts, data, machine, {
        type: 'failover',
        body: { id, step: 'committed', generation, point, atMs },
      });
    }
    const committed = { ...failover, state: 'committed' as const };
    if (failover.state !== 'committed') await place.write(committed);
    return report(parts, place, committed, await processOf(parts, place), turn.points);
  });
}

export function cleanUpFailovers(
  parts: Parts,
  request: Parameters<FailoverRoles['cleanUpFailovers']>[0],
): Promise<{ removed: string[] }> {
  const { machine, which } = request;
  return inTurn(parts, request, async (turn) => {
    const { points, removed } = turn;
    if (typeof which === 'object' && which.id === points.failover?.id) {
      throw new Problem('bad-argument', `${which.id} is no test: ${machine} runs there`, {
        remedy: `take it back with tidemark failover cancel ${machine}`,
      });
    }
    const tests = (await listFailovers(parts.files, turn.place.data, machine)).filter(({ id }) =>
      id.startsWith('test-'),
    );
    const chosen = testsToRemove(machine, which, tests, removed);
    for (const place of chosen) await removeFailover(turn, place);
    return { removed: [...removed, ...chosen.map(({ id }) => id)] };
  });
}

function testsToRemove(
  machine: string,
  which: Parameters<FailoverRoles['cleanUpFailovers']>[0]['which'],
  tests: readonly FailoverDirectory[],
  swept: readonly string[],
): readonly FailoverDirectory[] {
  const names = tests.map(({ id }) => id).join(', ') || 'none';
  if (which === 'all') return tests;
  if (which === undefined) {
    if (tests.length === 1 || (tests.length === 0 && swept.length > 0)) return tests;
    if (tests.length === 0)
      throw new Problem('not-found', `there is no test of ${machine}`, { remedy: 'nothing is to be done' });
    throw new Problem('bad-argument', `${machine} has several tests: ${names}`, {
      remedy: 'name one of them, or say --all',
    });
  }
  const found = tests.filter(({ id }) => id === which.id);
  if (found.length > 0 || swept.includes(which.id)) return found;
  throw new Problem('not-found', `${machine} has no test ${which.id}`, { remedy: `its tests: ${names}` });
}

export async function listAllFailovers(
  parts: Parts,
  request: Parameters<FailoverRoles['listFailovers']>[0],
): Promise<{ failovers: FailoverReport[] }> {
  const { data } = request;
  await storeFacts(parts, data);
  const machines = request.machine === undefined ? await listMachines(parts.files, data) : [request.machine];
  const failovers: FailoverReport[] = [];
  for (const machine of machines) {
    if (!(await readMachineFacts(parts.files, data, machine))) {
      throw new Problem('not-found', `${data} holds no machine ${machine}`, {
        remedy: 'run tidemark points to see which there are',
      });
    }
    const { view: points } = await pointsSaid(parts, data, machine);
    for (const place of await listFailovers(parts.files, data, machine)) {
      const failover = await place.read();
      if (failover) failovers.push(await report(parts, place, failover, await processOf(parts, place), points));
    }
  }
  return { failovers };
}

/** The process that serves it now; looks without taking anything. */
async function processOf({ files, clock }: Parts, place: FailoverDirectory): Promise<FailoverProcess | null> {
  const holder = await lockHolder(files, clock, place.path).catch(() => null);
  const found = await place.process();
  return holder !== null && found?.pid === holder.pid ? found : null;
}
