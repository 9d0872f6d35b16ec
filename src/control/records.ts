/** What several handlers read of the state, and how they refuse. */
import { nearest } from '../kit/nearest.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import * as schemas from './schemas.ts';
import type { Collection, State, StateRecord } from './state.ts';

const { pageItemsMax } = limits.control;

export const conflict = (what: string): Problem =>
  new Problem('version-conflict', `${what} was changed meanwhile`, { remedy: 'read it again and repeat the change' });

/** With the nearest of those that exist, where there are any. */
export function notFound(what: string, name: string, existing: readonly string[], remedy: string): Problem {
  const near = nearest(name, existing);
  const hint = near === '' ? '' : `did you mean ${near}? else `;
  return new Problem('not-found', `${what} ${name} does not exist`, { remedy: `${hint}${remedy}` });
}

export async function listAll(state: State, collection: Collection, prefix = ''): Promise<StateRecord[]> {
  const all: StateRecord[] = [];
  for (let page = await state.list(collection, { prefix, limit: pageItemsMax }); page.length > 0;) {
    all.push(...page);
    const last = page.at(-1);
    if (page.length < pageItemsMax || !last) break;
    page = await state.list(collection, { prefix, after: last.id, limit: pageItemsMax });
  }
  return all;
}

const namesIn = async (state: State, collection: Collection): Promise<string[]> =>
  (await listAll(state, collection)).map(({ id }) => id);

/** @throws Problem `not-found`. */
export async function machineOf(state: State, name: string): Promise<schemas.Machine & { readonly version: number }> {
  const record = await state.get('machines', name);
  if (record) return { ...schemas.machineSchema.parse(record.value), version: record.version };
  throw notFound('machine', name, await namesIn(state, 'machines'), `protect it with \`tidemark protect\``);
}

/** @throws Problem `not-found`. */
export async function policyOf(state: State, name: string): Promise<{ policy: schemas.Policy; version: number }> {
  const record = await state.get('policies', name);
  if (record) return { policy: schemas.policySchema.parse(record.value), version: record.version };
  throw notFound('policy', name, await namesIn(state, 'policies'), 'make it first');
}
