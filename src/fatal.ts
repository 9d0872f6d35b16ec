/**
 * The closed list of exit codes, and which problem ends with which. `tidemark --help` prints this table. Only `main.ts` calls
 * `process.exit`.
 */
export const exitCodes = {
  ok: { code: 0, meaning: 'done' },
  'check-failed': { code: 1, meaning: 'the check was made and the answer is no (verify, identical: false)' },
  usage: { code: 2, meaning: 'bad argument, bad configuration, bad input; nothing was changed' },
  'not-found': { code: 3, meaning: 'the machine, disk, point, file or directory named does not exist' },
  locked: { code: 4, meaning: 'another process holds the disk image or data directory' },
  refused: { code: 5, meaning: 'the peer refused: certificate, identity, registration key, epoch' },
  unreachable: { code: 6, meaning: 'the peer can not be reached or did not answer in time' },
  damaged: { code: 7, meaning: 'stored data failed its check; it was not served' },
  'wrong-version': { code: 8, meaning: 'a data directory or file of a format this program does not know' },
  'no-key': { code: 9, meaning: 'the vault key or recovery file is missing, unreadable or of another vault' },
  full: { code: 10, meaning: 'no space left where it is needed' },
  interrupted: { code: 11, meaning: 'ended by a signal before it was done' },
  'read-failed': { code: 12, meaning: 'stored data could not be read, and may be whole: try again' },
  'write-failed': { code: 13, meaning: 'what was to be written could not be; what was acknowledged before is kept' },
  internal: { code: 70, meaning: 'a bug in this program' },
  'points-log-sync-failed': {
    code: 71,
    meaning: 'points.log could not be made durable; the process stops at once (C4)',
  },
} as const satisfies Record<string, { code: number; meaning: string }>;

export type ExitName = keyof typeof exitCodes;

/** Problem codes that are not exit names themselves: all there are (`test/cli/exit-codes.test.ts`). In capitals: as NBD names them. */
const exitOfProblem: Readonly<Record<string, ExitName>> = {
  'bad-argument': 'usage',
  'bad-config': 'usage',
  'bad-image': 'usage',
  'bad-record': 'usage',
  'not-writable': 'usage',
  'bad-geometry': 'usage',
  shrunk: 'usage',
  'source-replaced': 'usage',
  'precondition-required': 'usage',
  'idempotency-mismatch': 'usage',
  'too-large': 'usage',
  EINVAL: 'usage',
  EOVERFLOW: 'usage',
  ENOTSUP: 'usage',
  'not-bootable': 'check-failed',
  'not-started': 'check-failed',
  'in-use': 'locked',
  'bad-certificate': 'refused',
  'bad-registration-key': 'refused',
  superseded: 'refused',
  'stale-epoch': 'refused',
  'not-authorised': 'refused',
  'not-authenticated': 'refused',
  'wrong-role': 'refused',
  unprotected: 'refused',
  'not-owner': 'refused',
  'failed-over': 'refused',
  'guest-agent-refused': 'refused',
  'version-conflict': 'refused',
  'protocol-error': 'refused',
  version: 'refused',
  'root-mismatch': 'refused',
  'layer-unknown': 'refused',
  'layer-incomplete': 'refused',
  EPERM: 'refused',
  timeout: 'unreachable',
  closed: 'unreachable',
  'shutting-down': 'unreachable',
  overloaded: 'unreachable',
  draining: 'unreachable',
  ESHUTDOWN: 'unreachable',
  'leaf-mismatch': 'damaged',
  'bad-recovery-file': 'no-key',
  ENOSPC: 'full',
  ENOMEM: 'full',
  'index-unreadable': 'read-failed',
  'cut-void': 'read-failed',
  EIO: 'read-failed',
  'store-failed': 'write-failed',
  'index-failed': 'write-failed',
  'sync-failed': 'write-failed',
  busy: 'write-failed',
};

/** The exit code for a problem code; an unknown one is `internal`. */
export function exitCodeFor(problemCode: string): number {
  const name = problemCode in exitCodes ? (problemCode as ExitName) : (exitOfProblem[problemCode] ?? 'internal');
  return exitCodes[name].code;
}
