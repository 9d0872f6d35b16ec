/**
 * Who may import whom (`src/`). A room is a folder; `limits`, `fatal`, `config` and `main` are rooms of one file. Inside a room
 * everything may import everything (but no cycles). What is not in the table is forbidden, types included.
 */
const pure = ['kit', 'limits'];
const posix = [...pure, 'posix'];
const below = [...posix, 'disk', 'wire', 'kernels', 'transport', 'nbd', 'store', 'observe'];

const allowed: Readonly<Record<string, readonly string[]>> = {
  kit: [],
  limits: ['kit'],
  fatal: [],
  disk: pure,
  wire: [...pure, 'disk'],
  kernels: [...pure, 'disk'],
  posix: pure,
  transport: [...posix, 'disk', 'wire', 'kernels'],
  nbd: [...posix, 'disk'],
  store: [...posix, 'disk', 'wire', 'kernels'],
  observe: pure,
  capture: below,
  agent: below,
  'process-server': below,
  target: below,
  recovery: below,
  control: below,
  config: [...pure, 'disk'],
  cli: [...pure, 'fatal', 'config'],
};

/** Single files that stand open to one more room. */
const exceptions: ReadonlySet<string> = new Set(['agent → src/capture/contract.ts']);

/** `src/wire/frame.ts` → `wire`, `src/limits.ts` → `limits`; `src/main/*` is part of main (the composition root). */
export function roomOf(name: string): string {
  return (name.split('/')[1] ?? '').replace(/\.ts$/, '');
}

/** Why `from` (under `src/`) may not import `to`, or null. */
export function importFault(from: string, to: string): string | null {
  // The version is in package.json; nothing else outside src/ is part of the product.
  if (!to.startsWith('src/')) return from === 'src/main.ts' && to === 'package.json' ? null : `${from} imports ${to}`;
  const [mine, theirs] = [roomOf(from), roomOf(to)];
  if (mine === theirs || mine === 'main') return null;
  if (theirs === 'main') return `${from} imports ${to}: nobody imports main`;
  const rooms = allowed[mine];
  if (!rooms) return `${from}: room ${mine} is not in test/tidy/rooms.ts`;
  if (rooms.includes(theirs) || exceptions.has(`${mine} → ${to}`)) return null;
  return `${from} imports ${to}: ${mine} may import ${rooms.join(', ') || 'nothing'}`;
}

/** What worker threads may load, through any number of files: those that seal batches, those that hash a disk, and those that read a point. */
export const sealingRooms: readonly string[] = ['process-server', 'kernels', 'disk', 'wire', 'kit', 'limits'];
export const hashingRooms: readonly string[] = ['agent', 'kernels', 'disk', 'posix', 'kit', 'limits'];
export const readingRooms: readonly string[] = [
  'recovery',
  'store',
  'kernels',
  'disk',
  'wire',
  'posix',
  'kit',
  'limits',
];
