/** Indexes open in this process, by directory: a killed process loses its hold on them, an abandoned object does not. */
import { RecordIndex } from '../../src/store/record-index.ts';

const indexes = new Map<string, RecordIndex>();
const openIndex = RecordIndex.open.bind(RecordIndex);
RecordIndex.open = async (options) => {
  const index = await openIndex(options);
  indexes.set(options.directory, index);
  return index;
};

/** As SIGKILL. What was committed to the index is in its file, as it would be in the page cache. */
export async function loseIndex(directory: string): Promise<void> {
  await indexes.get(directory)?.close(false);
}
