// What the page shows: each figure and each row, from a history of readings.

import { quantile } from "./metrics.js";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const NOTHING = "–";

export const count = (value) => value === undefined ? NOTHING : number.format(value);
const percent = (value) => value === undefined ? NOTHING : `${number.format(100 * value)} %`;
const size = (value) => value === undefined ? NOTHING : few.format(value);
const rate = size;
const seconds = (value) => {
  if (value === undefined) return NOTHING;
  return value < 1 ? `${few.format(1000 * value)} ms` : `${few.format(value)} s`;
};

const perMinute = (history, name, keeps) => {
  const rate = history.rate(name, keeps);
  return rate === undefined ? undefined : 60 * rate;
};

/** Name -> [value of a history, its text]. */
export const FIGURES = {
  in_flight: [(h) => h.now.sum("composer_requests_in_flight"), count],
  requests: [(h) => perMinute(h, "composer_requests_total"), rate],
  errors: [(h) => perMinute(h, "composer_request_errors_total"), rate],
  tokens: [(h) => h.rate("vllm:generation_tokens_total"), rate],
  rows: [(h) => h.now.sum("composer_rows_running"), count],
  gangs: [(h) => h.now.sum("composer_gangs_waiting"), count],
  kv: [(h) => h.now.sum("vllm:kv_cache_usage_perc"), percent],
  leases: [(h) => h.now.sum("composer_leases"), count],
};

/** Name -> rows of a history, each a list of texts. */
export const ROWS = {
  requests: (h) => counted(h, "composer_requests_total", ["composition", "outcome"]),
  recipes: (h) =>
    counted(h, "composer_requests_total", ["recipe"], ({ recipe }) => recipe !== "plain"),
  errors: (h) => counted(h, "composer_request_errors_total", ["code"]),
  choices: (h) => counted(h, "composer_router_choices_total", ["expert"]),
  scorings: (h) => counted(h, "composer_scoring_requests_total", ["kind", "outcome"]),
  adapters,
  quantiles,
  engine,
};

/** One row per combination of these labels, the most frequent first. */
function counted(history, name, labels, keeps = () => true) {
  const key = (of) => JSON.stringify(labels.map((label) => of[label]));
  const keys = new Set(history.now.of(name).filter((one) => keeps(one.labels))
    .map((one) => key(one.labels)));
  return [...keys]
    .map((one) => {
      const same = (of) => keeps(of) && key(of) === one;
      return [one, history.now.sum(name, same), perMinute(history, name, same)];
    })
    .sort((a, b) => b[1] - a[1])
    .map(([one, total, grows]) => [...JSON.parse(one), rate(grows), count(total)]);
}

function adapters(history, compositions) {
  const users = (adapter) => compositions
    .filter(({ plan }) => plan?.members.some(({ model }) => model === adapter))
    .map(({ name }) => name);
  return history.now.of("composer_adapter_leases")
    .sort((a, b) => a.labels.adapter.localeCompare(b.labels.adapter))
    .map(({ labels: { adapter, generation, state }, value }) => {
      const served = state === "served";
      const named = served ? users(adapter).join(", ") || NOTHING : "replaced";
      return [adapter, generation, named, count(value)];
    });
}

const HISTOGRAMS = [
  ["Rows of a composed request", "composer_rows", size],
  ["Wait until all rows run", "composer_gang_wait_seconds", seconds],
  ["Time to the first token", "vllm:time_to_first_token_seconds", seconds],
  ["Time between tokens", "vllm:inter_token_latency_seconds", seconds],
  ["Load of an adapter", "composer_adapter_load_seconds", seconds],
  ["Score, fit or sweep", "composer_scoring_seconds", seconds],
];

function quantiles(history) {
  return HISTOGRAMS.map(([title, name, text]) => {
    const all = history.now.buckets(name);
    const before = history.first.buckets(name);
    const both = (earlier) => [0.5, 0.95].map((share) => text(quantile(share, all, earlier)));
    return [title, ...both(before), ...both()];
  });
}

function engine(history) {
  const { now } = history;
  const rates = (name, keeps) =>
    [rate(perMinute(history, name, keeps)), count(now.sum(name, keeps) ?? 0)];
  const gauge = (name) => [NOTHING, count(now.sum(name))];
  const loads = (of) => ["composer_adapter_loads_total", ({ outcome }) => outcome === of];
  const [cache] = now.of("vllm:cache_config_info");
  const cached = cache && Number(cache.labels.kv_cache_size_tokens);
  const hits = now.sum("vllm:prefix_cache_hits_total");
  const asked = now.sum("vllm:prefix_cache_queries_total");
  return [
    ["Requests that run", ...gauge("vllm:num_requests_running")],
    ["Requests that wait", ...gauge("vllm:num_requests_waiting")],
    ["Tokens that the KV cache holds", NOTHING, count(cached)],
    ["Gangs preempted", ...rates("composer_gang_preemptions_total")],
    ["Prompt tokens", ...rates("vllm:prompt_tokens_total")],
    ["Answer tokens", ...rates("vllm:generation_tokens_total")],
    ["Prompt tokens found in the cache", NOTHING, percent(asked ? hits / asked : undefined)],
    ["Adapters loaded", ...rates(...loads("loaded"))],
    ["Adapters that failed to load", ...rates(...loads("failed"))],
    ["Generations in use", ...gauge("composer_adapter_generations")],
    ["Texts scored", ...rates("composer_scored_texts_total")],
    ["Tokens scored", ...rates("composer_scored_tokens_total")],
    ["Position in the store", ...gauge("composer_store_position")],
  ];
}
