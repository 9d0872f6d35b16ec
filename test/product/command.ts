/** `tidemark <command>` inside the test's own process. Commands that read damaged files run as programs (`scripts/demo/process.ts`) instead. */
import { inProcess } from '../../scripts/demo/in-process.ts';

export const command = inProcess('0.0.0-test');
