/**
 * The house rules a linter can see. Beside strict typing there is one idea: **whoever owns a resource is the only door to it**
 * (clock, randomness, files, sockets, threads, native packages), so that a test can put something else behind the door.
 * `owners` is that list; every room under `src/` gets exactly the rules of what it does not own. Tests and scripts are freer.
 * Import directions between rooms are not here: `test/tidy.test.ts` checks them on the whole graph.
 */
import { builtinModules } from 'node:module';
import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/**
 * `only`: folders (with a slash at the end) and files that may import `modules`.
 * `types`: others may still name the module's types.
 */
const owners = [
  {
    modules: ['node:fs', 'node:fs/promises', 'koffi'],
    only: ['src/posix/'],
    say: 'files are reached through src/posix (take Files)',
  },
  {
    modules: ['node:net', 'node:tls', 'node:http', 'node:https', 'node:http2', 'node:dgram'],
    only: [
      'src/transport/',
      'src/nbd/',
      'src/control/',
      'src/observe/',
      'src/posix/lock.ts',
      'src/agent/guest-channel.ts',
      'src/recovery/forwarded-port.ts',
      'src/target/admin',
    ],
    say: 'sockets belong to transport, nbd, control and observe; the guest agent has one, the probe of a boot proof another, the target its admin socket',
  },
  {
    modules: ['node:timers', 'node:timers/promises'],
    only: ['src/kit/clock.ts'],
    say: 'time is handed in (take Clock)',
  },
  {
    modules: ['node:crypto'],
    only: ['src/kit/random.ts', 'src/kernels/', 'src/transport/', 'src/control/', 'src/store/vault'],
    types: true,
    say: 'cryptography belongs to kernels, transport, control and the vault',
  },
  {
    modules: ['node:worker_threads', 'piscina'],
    only: ['src/kit/thread-pool.ts', 'src/process-server/', 'src/agent/hash-', 'src/recovery/read-'],
    say: 'threads belong to the process server, to the hashing of the agent, and to the reading of points',
  },
  {
    modules: ['node:child_process'],
    only: ['src/posix/program.ts', 'src/posix/running-program.ts', 'src/posix/detached.ts'],
    say: 'programs are started by src/posix: program.ts, running-program.ts, detached.ts',
  },
  {
    modules: ['node:cluster'],
    only: ['src/main/shards.ts'],
    say: 'the one port of several processes is kept by src/main/shards.ts',
  },
  { modules: ['ws'], only: ['src/transport/'], say: 'WebSockets belong to transport' },
  {
    modules: ['@peculiar/x509'],
    only: ['src/transport/', 'src/control/'],
    say: 'certificates belong to transport and control',
  },
  {
    modules: ['@napi-rs/blake-hash', 'blake3-wasm', 'lz4-napi', 'zstd-napi', 'node:zlib'],
    only: ['src/kernels/'],
    say: 'hashing and compression go through kernels',
  },
  {
    modules: ['@noble/ciphers'],
    only: ['src/kernels/', 'src/store/vault'],
    say: 'ciphers belong to kernels and the vault',
  },
  {
    modules: ['lmdb'],
    only: ['src/store/', 'src/control/'],
    say: 'the index belongs to store, the embedded state to control',
  },
  { modules: ['pino', 'prom-client'], only: ['src/observe/'], say: 'logs and metrics go through observe' },
  { modules: ['pg'], only: ['src/control/state-'], say: 'PostgreSQL is behind the state port' },
  { modules: ['fastify'], only: ['src/control/'], say: 'the HTTP API belongs to control' },
  { modules: ['commander', 'cli-progress'], only: ['src/cli/'], say: 'the command line belongs to cli' },
  { modules: ['@xmldom/xmldom'], only: ['src/recovery/domain-xml'], say: "XML is libvirt's: src/recovery/domain-xml*" },
  { modules: ['yaml'], only: ['src/config/'], say: 'configuration is read by src/config' },
];

const randomNames = [
  'randomBytes',
  'randomUUID',
  'randomInt',
  'randomFill',
  'randomFillSync',
  'getRandomValues',
  'webcrypto',
];
/** Making keys is the one other use of randomness: kernels, transport, control and the vault own `generateKeyPair`. */
const randomRule = {
  name: 'node:crypto',
  importNames: randomNames,
  message: 'randomness is handed in (take Random from src/kit/random.ts)',
};
const performanceRule = {
  name: 'node:perf_hooks',
  importNames: ['performance'],
  message: 'time is handed in (take Clock)',
};
const bareBuiltins = builtinModules
  .filter((name) => !name.includes(':') && !name.startsWith('_'))
  .map((name) => ({ name, message: `write node:${name}` }));

/** What files under `place` may not import. */
function restrictedImports(place) {
  const foreign = owners.filter((owner) => !owner.only.some((mine) => place.startsWith(mine)));
  const patterns = foreign.map((owner) => ({
    group: owner.modules.flatMap((name) => (name.startsWith('node:') ? [name] : [name, `${name}/*`])),
    message: owner.say,
    allowTypeImports: owner.types === true,
  }));
  const paths = [...bareBuiltins, performanceRule];
  const ownsCrypto = foreign.every((owner) => !owner.modules.includes('node:crypto'));
  if (ownsCrypto && place !== 'src/kit/random.ts') paths.push(randomRule);
  return {
    files: [place === 'src/' || place.endsWith('/') ? `${place}**/*.ts` : place.endsWith('.ts') ? place : `${place}*`],
    rules: { '@typescript-eslint/no-restricted-imports': ['error', { paths, patterns }] },
  };
}

/** Folders before files, so that the narrower rule is the later one. */
const places = [...new Set(['src/', ...owners.flatMap((owner) => owner.only)])].sort((a, b) => a.length - b.length);

const clockGlobals = ['setTimeout', 'setInterval', 'setImmediate', 'performance'].map((name) => ({
  name,
  message: 'time is handed in (take Clock from src/kit/clock.ts)',
}));
const randomGlobals = [{ name: 'crypto', message: 'randomness is handed in (take Random from src/kit/random.ts)' }];
const doors = {
  clock: [
    { object: 'Date', property: 'now', message: 'time is handed in (take Clock)' },
    { object: 'process', property: 'hrtime', message: 'time is handed in (take Clock)' },
  ],
  random: [{ object: 'Math', property: 'random', message: 'randomness is handed in (take Random)' }],
  exit: ['exit', 'reallyExit', 'abort'].map((property) => ({
    object: 'process',
    property,
    message: 'only src/main.ts ends the process (src/fatal.ts lists the ways)',
  })),
  builtin: [{ object: 'process', property: 'getBuiltinModule', message: 'import it' }],
};
const clockSyntax = [
  { selector: 'NewExpression[callee.name="Date"][arguments.length=0]', message: 'time is handed in (take Clock)' },
  { selector: 'CallExpression[callee.name="Date"]', message: 'time is handed in (take Clock)' },
];
const importSyntax = [
  {
    selector: 'ImportExpression > Literal[value=/^node:/]',
    message: 'import it at the head of the file, where the rules see it',
  },
];

export default defineConfig(
  { ignores: ['dist/', 'coverage/', 'node_modules/'] },
  js.configs.recommended,
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      eqeqeq: 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/consistent-type-imports': [
        'error',
        { fixStyle: 'inline-type-imports', disallowTypeAnnotations: false },
      ],
      '@typescript-eslint/consistent-type-exports': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-confusing-void-expression': [
        'error',
        { ignoreArrowShorthand: true, ignoreVoidReturningFunctions: true },
      ],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      // `const { left, ...rest } = value` is how a key is left out.
      '@typescript-eslint/no-unused-vars': ['error', { ignoreRestSiblings: true }],
      // Implementing an asynchronous contract with nothing to wait for is not a mistake.
      '@typescript-eslint/require-await': 'off',
    },
  },
  {
    files: ['src/**/*.ts'],
    rules: {
      'no-console': 'error',
      'no-restricted-globals': ['error', { globals: [...clockGlobals, ...randomGlobals], checkGlobalObject: true }],
      'no-restricted-properties': ['error', ...doors.clock, ...doors.random, ...doors.exit, ...doors.builtin],
      'no-restricted-syntax': ['error', ...clockSyntax, ...importSyntax],
    },
  },
  ...places.map(restrictedImports),
  {
    files: ['src/kit/clock.ts'],
    rules: {
      'no-restricted-globals': ['error', { globals: randomGlobals, checkGlobalObject: true }],
      'no-restricted-properties': ['error', ...doors.random, ...doors.exit, ...doors.builtin],
      'no-restricted-syntax': ['error', ...importSyntax],
    },
  },
  {
    files: ['src/main.ts'],
    rules: { 'no-restricted-properties': ['error', ...doors.clock, ...doors.random, ...doors.builtin] },
  },
  {
    files: ['**/*.js'],
    extends: [tseslint.configs.disableTypeChecked],
    languageOptions: { globals: { URL: 'readonly' } },
  },
);
