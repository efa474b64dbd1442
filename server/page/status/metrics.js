// Prometheus' text format, and what changes between two readings of it.

const SAMPLE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n" };

/** One reading of `/metrics`; `time` in seconds. */
export class Reading {
  constructor(text, time) {
    this.time = time;
    this.samples = new Map();
    for (const line of text.split("\n")) {
      const match = line.startsWith("#") ? null : SAMPLE.exec(line);
      if (!match) continue;
      const [, name, labels = "", value] = match;
      if (!Number.isFinite(Number(value))) continue;
      const sample = { labels: readLabels(labels), value: Number(value) };
      if (!this.samples.has(name)) this.samples.set(name, []);
      this.samples.get(name).push(sample);
    }
  }

  /** All samples of a metric: `{labels, value}`. */
  of(name) {
    return this.samples.get(name) ?? [];
  }

  /** The sum over the samples that `keeps` keeps; undefined if the server has no such metric. */
  sum(name, keeps = () => true) {
    const kept = this.of(name).filter(({ labels }) => keeps(labels));
    return kept.length ? kept.reduce((sum, { value }) => sum + value, 0) : undefined;
  }

  /** Upper bound -> count of observations up to it, of a histogram over all its labels. */
  buckets(name) {
    const buckets = new Map();
    for (const { labels, value } of this.of(`${name}_bucket`)) {
      const bound = Number(labels.le.replace("Inf", "Infinity"));
      buckets.set(bound, (buckets.get(bound) ?? 0) + value);
    }
    return buckets;
  }
}

function readLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, letter) => ESCAPED[letter] ?? letter);
  }
  return labels;
}

/**
 * A quantile of a histogram, linear within its bucket, as Prometheus computes it; undefined if
 * nothing was observed. `before`: buckets of an earlier reading, which do not count.
 */
export function quantile(share, buckets, before = new Map()) {
  const counts = [...buckets].sort(([a], [b]) => a - b)
    .map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1];
  if (!total) return undefined;
  const rank = share * total;
  const at = counts.findIndex(([, count]) => count >= rank);
  const [low, below] = at > 0 ? counts[at - 1] : [0, 0];
  const [high, upTo] = counts[at];
  if (high === Infinity) return low;
  return low + (high - low) * (rank - below) / (upTo - below);
}

/** The readings of the last `span` seconds. A restart of the server begins a new history. */
export class History {
  constructor(span = 600) {
    this.span = span;
    this.readings = [];
  }

  add(reading) {
    const started = (one) => one?.sum("process_start_time_seconds");
    if (this.readings.length && started(this.now) !== started(reading)) this.readings = [];
    this.readings.push(reading);
    while (this.readings[0].time < reading.time - this.span) this.readings.shift();
  }

  get now() {
    return this.readings.at(-1);
  }

  get first() {
    return this.readings[0];
  }

  /**
   * How much a counter grew per second within the last `window` seconds; undefined before a second
   * reading. A series that is not there is 0.
   */
  rate(name, keeps, window = 60) {
    const now = this.now;
    const since = this.readings.find((one) => one.time >= now.time - window);
    if (since === now) return undefined;
    const [value, before] = [now, since].map((one) => one.sum(name, keeps) ?? 0);
    return (value - before) / (now.time - since.time);
  }
}
