/** What agents say in their logs about the points they made. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';

const committed = z.object({
  time: z.number(),
  cutTimeMs: z.number(),
  writes: z.array(z.number()),
});

export interface LoggedPoint {
  /** When the agent was told that the point is durable, milliseconds since the Unix epoch. The target notes an instant before its sync. */
  readonly atMs: number;
  /** At which writes were held, milliseconds since the Unix epoch. */
  readonly cutTimeMs: number;
  /** Per disk: how many writes since the agent's start the point contains; at the cut none was under way. */
  readonly writes: readonly number[];
}

/** Lines that say that replication was disturbed. */
const disturbed = /"message":"(?:session ended|replication stopped|cut given up)/;
const logged = z.object({ time: z.number() });

/** How often agents were disturbed by then, such as by a session that took too long to open. */
export async function disturbances(log: string): Promise<number> {
  return (await readFile(log, 'utf8')).split('\n').filter((line) => disturbed.test(line)).length;
}

/**
 * In the order they were committed. `sinceMs`: an agent that was disturbed later than this spoils what is measured.
 * @throws Error when one was.
 */
export async function loggedPoints(log: string, sinceMs = 0): Promise<readonly LoggedPoint[]> {
  const lines = (await readFile(log, 'utf8')).split('\n').filter((line) => line.endsWith('}'));
  const late = (line: string): boolean => logged.parse(JSON.parse(line)).time >= sinceMs;
  const failure = lines.find((line) => disturbed.test(line) && late(line));
  if (failure !== undefined) throw new Error(`an agent did not go on undisturbed: ${failure}`);
  return lines
    .filter((line) => line.includes('"message":"point committed"'))
    .map((line) => {
      const { time, cutTimeMs, writes } = committed.parse(JSON.parse(line));
      return { atMs: time, cutTimeMs, writes };
    });
}

/** When the first line with `message` was logged, milliseconds since the Unix epoch; undefined if it was not. */
export async function loggedMs(log: string, message: string): Promise<number | undefined> {
  const text = await readFile(log, 'utf8').catch(() => '');
  const line = text.split('\n').find((each) => each.includes(`"message":"${message}"`) && each.endsWith('}'));
  return line === undefined ? undefined : logged.parse(JSON.parse(line)).time;
}
