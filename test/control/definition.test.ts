/** What a machine is, beside its disks: from an operator's words to its agent. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { definitionOf } from '../../src/main/machine-definition.ts';
import { plain } from '../recovery/definitions.ts';
import { Site } from './fixture.ts';

let site: Site;
beforeEach(async () => {
  site = await Site.start();
});
afterEach(() => site.end());

it('is kept by control and told to the agent; one that names foreign disks is refused', async () => {
  const operator = await site.operator();
  const { client } = await site.role('agent', 'm1');
  const disks = [{ name: 'root' }];
  await operator.call('putMachine', { name: 'm1', body: { disks, definition: plain } });
  expect((await client.call('getAgentConfig')).value.definition).toEqual(plain);
  const foreign = { ...plain, disks: ['data'] };
  await expect(operator.call('putMachine', { name: 'm2', body: { disks, definition: foreign } })).rejects.toThrow(
    'names a disk that is not protected',
  );
});

it('comes from flags, in the order of the disks, or says what is wrong with them', () => {
  const said = { cpus: 2, memoryBytes: 2 ** 30, firmware: 'bios', type: 'pc', bus: 'ide', nics: [{ model: 'e1000' }] };
  expect(definitionOf(said, ['b', 'a'])).toEqual({ ...said, disks: ['b', 'a'] });
  expect(() => definitionOf({ ...said, memoryBytes: undefined }, ['a'])).toThrow("the machine's memoryBytes:");
  expect(() => definitionOf({ ...said, nics: [{ model: 'e1000', mac: 'x' }] }, ['a'])).toThrow(
    "the machine's nics.0.mac:",
  );
  expect(() => definitionOf({ xml: '<domain/>' }, ['a'])).toThrow('<domain>: type');
});
