/** What a machine is, as an operator says it: by the text of a libvirt domain, or by flags. */
import type { Hardware } from '../cli/roles.ts';
import { Problem } from '../kit/problem.ts';
import { readDomainXml } from '../recovery/domain-xml-read.ts';
import { definitionSchema, type MachineDefinition } from '../wire/definition.ts';

/** By flags, disks are tried in the order they were named. @throws Problem `bad-argument`. */
export function definitionOf(said: { readonly xml: string } | Hardware, disks: readonly string[]): MachineDefinition {
  if ('xml' in said) return readDomainXml(said.xml, disks);
  const parsed = definitionSchema.safeParse({ ...said, disks });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Problem('bad-argument', `the machine's ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not valid'}`, {
    remedy: 'name it with --cpus, --memory, --firmware, --machine-type, --bus and --nic, or pass --machine-xml',
  });
}
