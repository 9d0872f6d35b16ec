/** What PostgreSQL and the way to it can say is wrong, as problems someone can act on. */
import { passwordRemedy } from './state-address.ts';
import { isProblem, messageOf, Problem, systemCode } from '../kit/problem.ts';

/** By SQLSTATE, or its first two digits (PostgreSQL's documentation, appendix A). */
const faults: Readonly<Record<string, { code: string; what: string; remedy: string; retryable: boolean }>> = {
  '25006': {
    code: 'not-writable',
    what: 'takes no writes',
    remedy: 'make it writable again, or name the primary in control.state',
    retryable: true,
  },
  '28': {
    code: 'not-authenticated',
    what: 'does not let control in',
    remedy: `${passwordRemedy}; its pg_hba.conf says who may`,
    retryable: false,
  },
  '3D000': {
    code: 'bad-config',
    what: 'has no such database',
    remedy: 'make it with createdb, or correct control.state',
    retryable: false,
  },
  '42501': {
    code: 'not-authorised',
    what: 'does not allow control its schema',
    remedy: 'have its owner run: create schema tidemark authorization <the user of control>',
    retryable: false,
  },
  '40': { code: 'timeout', what: 'was too busy', remedy: 'see what else it does', retryable: true },
  '53100': { code: 'full', what: 'has no space left', remedy: 'make room on its server', retryable: true },
  '53200': {
    code: 'timeout',
    what: 'has too little memory for what is asked of it at once',
    remedy: 'see shared memory and max_locks_per_transaction in its configuration',
    retryable: true,
  },
  '55P03': { code: 'timeout', what: 'was too busy', remedy: 'see what else it does', retryable: true },
  '57014': { code: 'timeout', what: 'did not answer in time', remedy: 'see what else it does', retryable: true },
};
const unreachableStates = /^(?:08|53300|57P0|25P03)/;
/** What the client and Node say when there is no connection, or no longer. */
const lost = /terminated|not queryable|[Tt]imeout|timed out|closed/;
const lostCodes = /^(?:ECONN|ENOENT|ENOTFOUND|EAI_|EPIPE|ETIMEDOUT|EHOST|ENET|EACCES)/;

/** @param where names the database. Anything that is not a fault of the database or of the way to it comes back as it is. */
export function stateFault(error: unknown, where: string): unknown {
  if (isProblem(error)) return error;
  const code = systemCode(error) ?? '';
  const said = messageOf(error);
  // A password is asked for, and there is none.
  const fault = faults[code] ?? faults[/^SASL|password must be/.test(said) ? '28' : code.slice(0, 2)];
  if (fault) {
    const { what, remedy, retryable } = fault;
    return new Problem(fault.code, `${where} ${what}: ${said}`, { remedy, retryable, cause: error });
  }
  if (/^(?:ERR_TLS|ERR_SSL|CERT|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO)/.test(code) || /SSL connections/.test(said)) {
    const remedy = 'see sslmode and sslrootcert in control.state, and the certificate of the server';
    return new Problem('bad-certificate', `${where}: ${said}`, { remedy, cause: error });
  }
  if (!unreachableStates.test(code) && !lostCodes.test(code) && !lost.test(said)) return error;
  const remedy = 'see whether it runs, and whether control.state names it rightly';
  return new Problem('unreachable', `${where} can not be reached: ${said || code}`, {
    remedy,
    retryable: true,
    cause: error,
  });
}

/** Whether another connection may help: this one is gone. */
export function isLost(fault: unknown): boolean {
  return isProblem(fault) && fault.code === 'unreachable';
}

/** What a caller of control hears of a fault while control runs: it lies behind control, and passes. */
export function whileRunning(fault: unknown): unknown {
  if (!isProblem(fault) || fault.retryable) return fault;
  const { message, remedy } = fault;
  return new Problem('unreachable', message, { remedy, retryable: true, cause: fault });
}
