/** What fields of the API's records are made of. */
import { z } from 'zod';
import { localTimeIn } from '../kit/local-time.ts';
import { isProblem } from '../kit/problem.ts';

export const nameSchema = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'lower-case letters, digits, ".", "_", "-"; at most 63');
export const diskName = nameSchema;
export const count = z.int().min(0);
export const bytes = count.describe('Bytes.');
export const timeMs = count.describe('Milliseconds since the Unix epoch.');
export const text = z.string().max(1024);
export const hash = z.string().regex(/^[0-9a-f]{64}$/, '64 lower-case hex digits');

/** Text that `parse` takes; what it says to other text is the complaint. */
export const textFor = (parse: (value: string) => unknown) =>
  z
    .string()
    // Ends here: what parses is made for text of a line, and would keep control from all else over a long one.
    .max(256, { abort: true })
    .superRefine((value, context) => {
      try {
        parse(value);
      } catch (error) {
        if (!isProblem(error)) throw error;
        context.addIssue({ code: 'custom', message: `${error.message}: ${error.remedy}` });
      }
    });
export const timeZone = textFor(localTimeIn);

/** Roles that can hold a certificate made by enrolment; `control` gets its own at start. */
export const enrolledRole = z.enum(['agent', 'process-server', 'target']);
export type EnrolledRole = z.infer<typeof enrolledRole>;
