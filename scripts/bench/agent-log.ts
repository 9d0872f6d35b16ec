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

/** In the order they were committed. @throws Error when the log says that replication failed: then no figure is worth anything. */
export async function loggedPoints(log: string): Promise<readonly LoggedPoint[]> {
  const lines = (await readFile(log, 'utf8')).split('\n');
  const failure = lines.find((line) => /"message":"(?:session ended|replication stopped|cut given up)/.test(line));
  if (failure !== undefined) throw new Error(`an agent did not go on undisturbed: ${failure}`);
  return lines
    .filter((line) => line.includes('"message":"point committed"') && line.endsWith('}'))
    .map((line) => {
      const { time, cutTimeMs, writes } = committed.parse(JSON.parse(line));
      return { atMs: time, cutTimeMs, writes };
    });
}
