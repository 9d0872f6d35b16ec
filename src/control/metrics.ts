/**
 * What control exports: the one report value that status and command line show too, as numbers. A machine's series stay while
 * its agent and target are away, because control remembers what they said last: alerts about a machine are made of these.
 */
import type { MetricRegistry, Sample, SeriesDeclaration } from '../observe/registry.ts';
import type { StatusReport } from './status-schemas.ts';

type MachineStatus = StatusReport['machines'][number];
type DiskStatus = MachineStatus['disks'][number];

const ofMachine = (name: string, help: string) =>
  ({ name: `tidemark_machine_${name}`, help, type: 'gauge', labels: ['machine'] }) as const;

const healths = ['ok', 'warning', 'critical'] as const;
const siteHealth = {
  name: 'tidemark_site_health',
  help: '1 for the health of the site as a whole, 0 for the other two.',
  type: 'gauge',
  labels: ['state'],
} as const;
const machineHealth = {
  name: 'tidemark_machine_health',
  help: '1 for the health of the machine, 0 for the other two.',
  type: 'gauge',
  labels: ['machine', 'state'],
} as const;
const reasons = {
  name: 'tidemark_machine_reasons',
  help: 'Reasons why the health of the machine or of one of its disks is not ok, by how bad they are.',
  type: 'gauge',
  labels: ['machine', 'state'],
} as const;
const lagBytes = {
  name: 'tidemark_machine_disk_behind_bytes',
  help: 'Bytes changed and not yet in a committed point, as the agent said last.',
  type: 'gauge',
  labels: ['machine', 'disk'],
} as const;
const roleSilent = {
  name: 'tidemark_roles_silent',
  help: 'Enrolled roles that reported once and do not any more, by role.',
  type: 'gauge',
  labels: ['role'],
} as const;
const roles = ['agent', 'process-server', 'target'] as const;

const seconds = (ms: number | null): number | undefined => (ms === null ? undefined : ms / 1000);

type OfMachine = (machine: MachineStatus, nowMs: number) => number | undefined;

/** One number per machine; undefined: not known. */
const machines: readonly (readonly [SeriesDeclaration<'machine'>, OfMachine])[] = [
  [
    ofMachine('rpo_target_seconds', 'How old the newest committed point may be, as the policy says.'),
    ({ rpoTargetSeconds }) => rpoTargetSeconds ?? undefined,
  ],
  [
    ofMachine('rpo_interval_seconds', 'How often a recovery point is made, as the policy says.'),
    ({ rpoIntervalSeconds }) => rpoIntervalSeconds ?? undefined,
  ],
  [
    ofMachine(
      'rpo_actual_seconds',
      'Age of the newest point that is committed for all disks of the machine, as status judges it. Absent while there is none.',
    ),
    ({ rpoActualSeconds }) => rpoActualSeconds ?? undefined,
  ],
  [
    ofMachine(
      'newest_point_cut_timestamp_seconds',
      'Cut time of the newest point that is committed for all disks of the machine, as the target said last.',
    ),
    ({ newestCommittedMs }) => seconds(newestCommittedMs),
  ],
  [
    ofMachine(
      'newest_proven_point_cut_timestamp_seconds',
      'Cut time of the newest point that is proven for all disks of the machine, as the target said last.',
    ),
    ({ newestProvenMs }) => seconds(newestProvenMs),
  ],
  [
    ofMachine(
      'rpo_breach_forecast_timestamp_seconds',
      'When the RPO target is breached at present churn and drain. Absent while that is not foreseen.',
    ),
    ({ forecast }, nowMs) => {
      const inSeconds = forecast?.breachInSeconds ?? null;
      return inSeconds === null ? undefined : nowMs / 1000 + inSeconds;
    },
  ],
  [
    ofMachine(
      'drain_needed_bytes_per_second',
      'How fast changes would have to become durable for the RPO target to hold.',
    ),
    ({ forecast }) => forecast?.needsBytesPerSecond,
  ],
  [
    ofMachine(
      'drain_bytes_per_second',
      'How fast changes became durable in the last minute, while there was something to send.',
    ),
    ({ flow }) => flow.drain ?? undefined,
  ],
  [
    ofMachine('churn_bytes_per_second', 'How fast writers changed the disks in the last minute.'),
    ({ flow }) => flow.churn ?? undefined,
  ],
];

const bindingStages = ['capture', 'agent', 'link', 'process-server', 'throttle', 'spool', 'target', 'proof'] as const;
const bindingStage = {
  name: 'tidemark_machine_binding_stage',
  help: '1 for the stage that holds the machine up, 0 for the others. All 0: none does, or nobody says enough.',
  type: 'gauge',
  labels: ['machine', 'stage'],
} as const;

const count = (machine: MachineStatus, state: 'warning' | 'critical'): number =>
  [machine, ...machine.disks].flatMap((one) => one.reasons).filter(({ severity }) => severity === state).length;

function oneOf<L extends string>(labels: Readonly<Record<L, string>>, health: string): Sample<L | 'state'>[] {
  return healths.map((state) => ({ labels: { ...labels, state }, value: state === health ? 1 : 0 }));
}

/** @param status asked once per scrape; while it fails the series are absent. */
export function registerControlSeries(registry: MetricRegistry, status: () => Promise<StatusReport>): void {
  const report = registry.asked(status);
  const known = (): readonly MachineStatus[] => report()?.machines ?? [];
  const disks = <L extends string>(sample: (machine: string, disk: DiskStatus) => Sample<L>): Sample<L>[] =>
    known().flatMap((machine) => machine.disks.map((disk) => sample(machine.name, disk)));
  for (const [declaration, value] of machines)
    registry.sampled(declaration, () =>
      known().map((machine) => ({ labels: { machine: machine.name }, value: value(machine, report()?.atMs ?? 0) })),
    );
  registry.sampled(siteHealth, () => {
    const health = report()?.health;
    return health === undefined ? [] : oneOf<never>({}, health);
  });
  registry.sampled(machineHealth, () =>
    known().flatMap(({ name, health }) => oneOf<'machine'>({ machine: name }, health)),
  );
  registry.sampled(bindingStage, () =>
    known().flatMap(({ name, stage: binding }) =>
      bindingStages.map((stage) => ({ labels: { machine: name, stage }, value: stage === binding?.name ? 1 : 0 })),
    ),
  );
  registry.sampled(reasons, () =>
    known().flatMap((machine) =>
      (['warning', 'critical'] as const).map((state) => ({
        labels: { machine: machine.name, state },
        value: count(machine, state),
      })),
    ),
  );
  registry.sampled(lagBytes, () =>
    disks((machine, { name, lagBytes: value }) => ({ labels: { machine, disk: name }, value: value ?? undefined })),
  );
  registry.sampled(roleSilent, () => {
    const told = report()?.roles;
    return roles.map((role) => ({
      labels: { role },
      value: told?.filter((one) => one.role === role && one.silent).length,
    }));
  });
}
