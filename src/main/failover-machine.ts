/** The machine of a failover, for who starts it: a QEMU command line and a libvirt domain, where its definition is known. */
import type { FailoverReport } from '../cli/failover-roles.ts';
import type { Files } from '../posix/files.ts';
import { domainXml } from '../recovery/domain-xml.ts';
import type { Failover, FailoverDirectory, FailoverProcess } from '../recovery/failover-directory.ts';
import { qemuCommand } from '../recovery/qemu.ts';

const titleOf = ({ machine, id }: Failover): string => `${machine}-${id}`;

export async function writeDomainXml(
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
}

export function machineWordsOf(
  place: FailoverDirectory,
  failover: Failover,
  process: FailoverProcess | null,
): Pick<FailoverReport, 'qemu' | 'domainXml'> {
  const { definition } = failover;
  if (!definition || !process) return { qemu: null, domainXml: null };
  // UEFI needs a copy of its variables, which whoever starts the machine makes.
  const qemu =
    definition.firmware === 'bios' ? qemuCommand({ title: titleOf(failover), definition, disks: process.disks }) : null;
  return { qemu, domainXml: place.domainXml };
}
