/** Composition: the real parts behind the command line's `Roles`. What is not composed yet says so and ends with `internal`. */
import type { Roles } from '../cli/roles.ts';
import { Problem } from '../kit/problem.ts';

const absent = (what: string) => async (): Promise<never> => {
  throw new Problem('internal', `this version can not ${what} yet`, {
    remedy: 'see "What is not there yet" in README.md',
  });
};

export function composeRoles(): Roles {
  return {
    startUp: absent('run a recovery site'),
    startControl: absent('run the control API'),
    startTarget: absent('run a target'),
    startProcessServer: absent('run a process server'),
    startAgent: absent('run an agent'),
    serveNbd: absent('serve a point'),
    exportPoint: absent('export a point'),
    verify: absent('verify a point'),
    listPoints: absent('list points'),
    keyExport: absent('export the vault key'),
    createToken: absent('make a registration key'),
    enroll: absent('enroll'),
    protect: absent('protect a machine'),
    status: absent('tell its status'),
  };
}
