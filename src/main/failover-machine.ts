/** The machine of a failover, for who starts it: a QEMU command line and a libvirt domain, where its definition is known; variables of its own for UEFI. */
import * as path from 'node:path';
import type { FailoverReport } from '../cli/failover-roles.ts';
import { isProblem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import { domainXml } from '../recovery/domain-xml.ts';
import type { Failover, FailoverDirectory, FailoverProcess } from '../recovery/failover-directory.ts';
import { qemuCommand } from '../recovery/qemu.ts';
import { preparedUefi, prepareUefi } from '../recovery/uefi.ts';

const titleOf = ({ machine, id }: Failover): string => `${machine}-${id}`;

/** Where no UEFI firmware is installed the disks are served all the same: whoever starts the machine may have one. */
export async function writeMachine(
  files: Files,
  place: FailoverDirectory,
  failover: Failover,
  { disks }: FailoverProcess,
): Promise<void> {
  const { definition } = failover;
  if (!definition) return;
  const name = titleOf(failover);
  const text = domainXml({ name, definition, disks, network: 'isolated', accelerated: false });
  await files.replaceFile(place.domainXml, Buffer.from(text));
  if (definition.firmware !== 'uefi') return;
  await prepareUefi(files, path.resolve(place.path)).catch((error: unknown) => {
    if (!isProblem(error) || error.code !== 'not-found') throw error;
  });
}

export async function machineWordsOf(
  files: Files,
  place: FailoverDirectory,
  failover: Failover,
  process: FailoverProcess | null,
): Promise<Pick<FailoverReport, 'qemu' | 'domainXml'>> {
  const { definition } = failover;
  if (!definition || !process) return { qemu: null, domainXml: null };
  const { domainXml } = place;
  const machine = { title: titleOf(failover), definition, disks: process.disks };
  if (definition.firmware === 'bios') return { qemu: qemuCommand(machine), domainXml };
  const uefi = await preparedUefi(files, path.resolve(place.path));
  return { qemu: uefi && qemuCommand({ ...machine, uefi }), domainXml };
}
