/** The operator of what is measured: commands that make it ready and look after it, none of them measured. */
import { inProcess } from '../demo/in-process.ts';

export const operator = inProcess('0.0.0-bench');
