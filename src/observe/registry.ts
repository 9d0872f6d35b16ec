/**
 * The metrics of a process. Each room declares its series as plain data in its `metrics.ts`; a registry makes them, over
 * prom-client. The hot path keeps plain numbers and hands in a function that samples them when somebody scrapes
 * (`sampled`); what is rare is counted here directly (`counter`, `gauge`, `histogram`).
 *
 * Invariants:
 *  1. Unknown is absent, never 0: a gauge exists only once it was set, `undefined` or NaN removes it, and a sampled series holds
 *     exactly what the last sample gave.
 *  2. Names, units and labels keep DESIGN §8, checked at registration: prefix `tidemark_`, base units, counters end in
 *     `_total`, ages are exported as `_timestamp_seconds`, label names come from the closed list below.
 *  3. Label values other than names of machines and disks come from closed sets; a value that could not is refused.
 *  4. What has to be asked for is asked once per scrape, so that all series of one scrape show the same answer.
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { invariant } from '../kit/invariant.ts';

export interface SeriesDeclaration<L extends string = string> {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly L[];
  /** Upper bounds of a histogram, in the unit of the name. */
  readonly buckets?: readonly number[];
}

export type Labels<L extends string> = Readonly<Record<L, string>>;

export interface Sample<L extends string> {
  readonly labels: Labels<L>;
  /** `undefined`: not known, so absent. */
  readonly value: number | undefined;
}

export interface CounterSeries<L extends string> {
  /** Adds `by` (1 unless given, never negative). */
  add(labels: Labels<L>, by?: number): void;
}
export interface GaugeSeries<L extends string> {
  /** `undefined` makes it absent again. */
  set(labels: Labels<L>, value: number | undefined): void;
}
export interface HistogramSeries<L extends string> {
  observe(labels: Labels<L>, value: number): void;
}

export interface MetricRegistry {
  counter<const L extends string>(declaration: SeriesDeclaration<L>): CounterSeries<L>;
  gauge<const L extends string>(declaration: SeriesDeclaration<L>): GaugeSeries<L>;
  histogram<const L extends string>(declaration: SeriesDeclaration<L>): HistogramSeries<L>;
  /** A counter or gauge whose values are asked for at each scrape. A sampled counter must never go down. */
  sampled<const L extends string>(declaration: SeriesDeclaration<L>, sample: () => Iterable<Sample<L>>): void;
  /** Invariant 4. @returns the answer of the scrape under way; undefined: there was none, so its series are absent. */
  asked<T>(ask: () => Promise<T>): () => T | undefined;
  /** The exposition text and its content type. */
  expose(): Promise<{ readonly text: string; readonly contentType: string }>;
}

/** Invariant 2. `machine` and `disk` are names; the others have a handful of values each. */
const labelNames: ReadonlySet<string> = new Set(
  'machine disk role stage direction kind codec kernel provider code reason result state queue file version'.split(' '),
);
/** Suffixes that are not base units, and forms in which an age hides. */
const wrongUnit =
  /_(?:ms|millis|milliseconds|us|microseconds|ns|nanoseconds|minutes|hours|days|kb|kib|mb|mib|gb|gib|kilobytes|megabytes|bits|percent|age|ago)(?:_|$)/;
const reserved = /_(?:count|sum|bucket)$/;
const closedValue = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$/;
const nameValueMax = 255;

function checkDeclaration(declaration: SeriesDeclaration, type: SeriesDeclaration['type']): void {
  const { name, help, labels, buckets } = declaration;
  invariant(declaration.type === type, `${name} is declared as ${declaration.type}, made as ${type}`);
  invariant(
    /^tidemark_[a-z][a-z0-9]*(?:_[a-z0-9]+)*$/.test(name),
    `${name}: a metric is named tidemark_lower_case_words`,
  );
  invariant(!wrongUnit.test(name), `${name}: metrics are in base units (seconds, bytes, ratio), ages are timestamps`);
  invariant(!reserved.test(name), `${name}: _count, _sum and _bucket belong to histograms`);
  invariant(name.endsWith('_total') === (type === 'counter'), `${name}: counters, and only they, end in _total`);
  invariant(type !== 'histogram' || /_(?:seconds|bytes|ratio)$/.test(name), `${name}: a histogram ends in its unit`);
  invariant(type === 'histogram' || buckets === undefined, `${name}: only a histogram has buckets`);
  invariant(help.length > 0, `${name}: has no help text`);
  invariant(new Set(labels).size === labels.length, `${name}: a label occurs twice`);
  for (const label of labels) invariant(labelNames.has(label), `${name}: label ${label} is not in the closed list`);
}

function checkLabels(name: string, labels: Readonly<Record<string, string>>): void {
  for (const [label, value] of Object.entries(labels)) {
    const isName = label === 'machine' || label === 'disk';
    const fits = isName ? value.length <= nameValueMax : closedValue.test(value);
    invariant(fits, `${name}: ${label} has a value outside its closed set`);
  }
}

function isKnown(value: number | undefined): value is number {
  return value !== undefined && !Number.isNaN(value);
}

function settingsIn<L extends string>(inner: Registry, { name, help, labels }: SeriesDeclaration<L>) {
  return { name, help, labelNames: labels, registers: [inner] };
}

function makeSampled<L extends string>(
  inner: Registry,
  declaration: SeriesDeclaration<L>,
  sample: () => Iterable<Sample<L>>,
): void {
  const { name } = declaration;
  const settings = settingsIn(inner, declaration);
  /** Invariant 1: nothing of the sample before stays, not even the 0 that prom-client starts an unlabelled series with. */
  const collect = (metric: Counter<L> | Gauge<L>): void => {
    metric.reset();
    metric.remove({} as Labels<L>);
    for (const { labels: values, value } of sample()) {
      if (!isKnown(value)) continue;
      checkLabels(name, values);
      metric.inc(values, value);
    }
  };
  if (declaration.type === 'counter') {
    const metric: Counter<L> = new Counter<L>({ ...settings, collect: () => collect(metric) });
  } else {
    const metric: Gauge<L> = new Gauge<L>({ ...settings, collect: () => collect(metric) });
  }
}

export function createRegistry(): MetricRegistry {
  const inner = new Registry();
  const questions: (() => Promise<void>)[] = [];
  const settingsOf = <L extends string>(declaration: SeriesDeclaration<L>) => settingsIn(inner, declaration);
  return {
    counter(declaration) {
      checkDeclaration(declaration, 'counter');
      const metric = new Counter(settingsOf(declaration));
      return {
        add(labels, by = 1) {
          checkLabels(declaration.name, labels);
          metric.inc(labels, by);
        },
      };
    },
    gauge(declaration) {
      checkDeclaration(declaration, 'gauge');
      const metric = new Gauge(settingsOf(declaration));
      if (declaration.labels.length === 0) metric.remove();
      return {
        set(labels, value) {
          checkLabels(declaration.name, labels);
          if (isKnown(value)) metric.set(labels, value);
          else metric.remove(labels);
        },
      };
    },
    histogram(declaration) {
      checkDeclaration(declaration, 'histogram');
      invariant(declaration.buckets !== undefined, `${declaration.name}: a histogram declares its buckets`);
      const metric = new Histogram({ ...settingsOf(declaration), buckets: [...declaration.buckets] });
      return {
        observe(labels, value) {
          checkLabels(declaration.name, labels);
          metric.observe(labels, value);
        },
      };
    },
    sampled(declaration, sample) {
      invariant(declaration.type !== 'histogram', `${declaration.name}: a histogram can not be sampled`);
      checkDeclaration(declaration, declaration.type);
      makeSampled(inner, declaration, sample);
    },
    asked<T>(ask: () => Promise<T>) {
      let answer: T | undefined;
      questions.push(async () => {
        answer = await ask().catch(() => undefined);
      });
      return () => answer;
    },
    async expose() {
      await Promise.all(questions.map((ask) => ask()));
      return { text: await inner.metrics(), contentType: inner.contentType };
    },
  };
}
