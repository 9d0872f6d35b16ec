/** What several handlers read and write of the state, and how they refuse. */
import { invariant } from '../kit/invariant.ts';
import { nearest } from '../kit/nearest.ts';
import { Problem } from '../kit/problem.ts';
import { limits } from '../limits.ts';
import type { Call } from './http.ts';
import * as schemas from './schemas.ts';
import type { Change, Collection, Json, State, StateRecord } from './state.ts';

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

/** PUT of a versioned record: made if missing; replaced only by someone who shows the version that is replaced. */
export async function put(
  state: State,
  collection: Collection,
  call: { name: string; ifMatch: Call<'putMachine'>['ifMatch'] },
  value: Json,
  also: readonly Change[] = [],
) {
  const { name, ifMatch } = call;
  const now = (await state.get(collection, name))?.version ?? 0;
  if (now !== 0 && ifMatch === undefined) {
    throw new Problem('precondition-required', `${name} exists already`, {
      remedy: 'read it and send its ETag as If-Match',
    });
  }
  if (ifMatch !== undefined && (now === 0 || (ifMatch !== 'any' && ifMatch !== now))) throw conflict(name);
  const result = await state.commit([{ collection, id: name, value, expected: now }, ...also]);
  if (!result.ok) throw conflict(name);
  const [version] = result.versions;
  invariant(version !== undefined, 'a commit gives a version per change');
  return { version, made: now === 0 };
}
