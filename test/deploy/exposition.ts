/** The text a role answers `/metrics` with, as data. */
export interface ExposedSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Exposition {
  /** Type and help of every series, also of those without a sample. */
  readonly declared: ReadonlyMap<string, { readonly type: string; readonly help: string }>;
  readonly samples: readonly ExposedSample[];
}

export async function exposed(url: string): Promise<Exposition> {
  const text = await (await fetch(url)).text();
  const types = new Map([...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name = '', type = '']) => [name, type]));
  const helps = [...text.matchAll(/^# HELP (\S+) (.*)$/gm)];
  const declared = new Map(helps.map(([, name = '', help = '']) => [name, { type: types.get(name) ?? '', help }]));
  const samples = [...text.matchAll(/^(tidemark_\w+)(?:\{(.*)\})? (\S+)$/gm)].map(
    ([, name = '', inside = '', value = '']): ExposedSample => ({
      name,
      labels: Object.fromEntries(
        [...inside.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', held = '']) => [key, held]),
      ),
      value: Number(value),
    }),
  );
  return { declared, samples };
}
