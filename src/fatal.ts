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
  internal: { code: 70, meaning: 'a bug in this program' },
  'points-log-sync-failed': {
    code: 71,
    meaning: 'points.log could not be made durable; the process stops at once (C4)',
  },
} as const satisfies Record<string, { code: number; meaning: string }>;

export type ExitName = keyof typeof exitCodes;

/** Problem codes that are not exit names themselves. */
const exitOfProblem: Readonly<Record<string, ExitName>> = {
  'bad-argument': 'usage',
  'bad-config': 'usage',
  'bad-image': 'usage',
  'not-writable': 'usage',
  'bad-geometry': 'usage',
  shrunk: 'usage',
  'not-bootable': 'check-failed',
  'bad-recovery-file': 'no-key',
  'bad-certificate': 'refused',
  'bad-registration-key': 'refused',
  superseded: 'refused',
  'not-authorised': 'refused',
  'not-authenticated': 'refused',
  'version-conflict': 'refused',
  'precondition-required': 'usage',
  'idempotency-mismatch': 'usage',
  'too-large': 'usage',
  'protocol-error': 'refused',
  timeout: 'unreachable',
  closed: 'unreachable',
};

/** The exit code for a problem code; an unknown one is `internal`. */
export function exitCodeFor(problemCode: string): number {
  const name = problemCode in exitCodes ? (problemCode as ExitName) : (exitOfProblem[problemCode] ?? 'internal');
  return exitCodes[name].code;
}
