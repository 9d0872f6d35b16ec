/** What process servers are told of limits, and what an operator is told of limits that never count. */
import { firstAbove, parseRateTable } from '../kit/rate-table.ts';
import { listAll } from './records.ts';
import * as schemas from './schemas.ts';
import type { State } from './state.ts';
import type { ThrottleOfMachine } from './throttle-schemas.ts';

type PolicyLimit = Pick<schemas.Policy, 'throttle' | 'throttleTimeZone'>;

const none = schemas.policySchema.parse({});

/** All machines that have a limit or a priority, their own or their policy's. */
export async function throttles(state: State): Promise<ThrottleOfMachine[]> {
  const policies = new Map(
    (await listAll(state, 'policies')).map(({ id, value }) => [id, schemas.policySchema.parse(value)]),
  );
  return (await listAll(state, 'machines')).flatMap(({ id: machine, value }) => {
    const { policy, throttle: own, priority: ownPriority } = schemas.machineSchema.parse(value);
    const { throttle: ofPolicy, throttleTimeZone: timeZone, priority: policyPriority } = policies.get(policy) ?? none;
    const priority = ownPriority ?? policyPriority;
    if (own === null && ofPolicy === null && priority === 'normal') return [];
    return [{ machine, policy, own, ofPolicy, timeZone, priority }];
  });
}

/** Said when either is set; null: there is nothing to say. */
export function limitAbovePolicy(
  machine: string,
  own: string | null,
  policyName: string,
  policy: PolicyLimit,
): string | null {
  const { throttle, throttleTimeZone: timeZone } = policy;
  if (own === null || throttle === null) return null;
  const from = firstAbove(parseRateTable(own, timeZone), parseRateTable(throttle, timeZone));
  if (from === null) return null;
  return `${machine} may send more than its policy ${policyName} lets pass (from ${from} on: "${own}", the policy: "${throttle}"): the lower limit counts`;
}
