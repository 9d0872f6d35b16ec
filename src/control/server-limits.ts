/**
 * Limits of process servers, as an operator sets them. What is set counts in place of what the process server is configured with, above it or below;
 * where nothing is set, or null, it is as it is configured. Kept apart from what is known of process servers by their questions: that is
 * forgotten when one is away for long, a limit is not.
 */
import type { Handlers } from './http.ts';
import { listAll, notFound, put } from './records.ts';
import type { State } from './state.ts';
import { processServerLimit, type ThrottleOfServer } from './throttle-schemas.ts';

const reportPrefix = 'process-server/';

/** A limit of nobody would be a typing error that nothing shows. */
async function refuseUnknown(state: State, name: string): Promise<void> {
  if (await state.get('reports', `${reportPrefix}${name}`)) return;
  const known = (await listAll(state, 'reports', reportPrefix)).map(({ id }) => id.slice(reportPrefix.length));
  throw notFound('process server', name, known, 'start it first: it is known here from its first report on');
}

/** What the process server is told; null: nothing is set. */
export async function limitOfServer(state: State, name: string): Promise<ThrottleOfServer | null> {
  const record = await state.get('server-limits', name);
  if (!record) return null;
  const { throttle, throttleTimeZone: timeZone } = processServerLimit.parse(record.value);
  return throttle === null ? null : { throttle, timeZone };
}

export function limiting(state: State): Pick<Handlers, 'getProcessServerLimit' | 'putProcessServerLimit'> {
  return {
    async getProcessServerLimit({ name }) {
      const record = await state.get('server-limits', name);
      if (record) return { value: { name, ...processServerLimit.parse(record.value) }, version: record.version };
      await refuseUnknown(state, name);
      throw notFound('a limit of process server', name, [], 'PUT makes one; it is as it is configured');
    },
    async putProcessServerLimit(call) {
      await refuseUnknown(state, call.name);
      const made = await put(state, 'server-limits', call, call.body);
      return { value: { name: call.name, ...call.body }, ...made };
    },
  };
}
