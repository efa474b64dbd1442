// The status of this server: asks /ready, /metrics and the stored compositions, and shows them.

import { FIGURES } from "./figures.js";
import { History, Reading } from "./metrics.js";
import { ask, hideFigures, onKey, say, show } from "./view.js";

const EVERY_MS = 5000;
const FIRST_MS = 1000; // until there are two readings, from which rates follow
const PATIENCE_MS = 4000;
const COMPOSITIONS_EVERY = 6; // readings

let key = null; // in memory only
let history = new History();
let lines = {};
let compositions = [];
let turns = 0;
let timer;
let lastAnswer = null;

/** Ask the server. Paths are relative, for a proxy may add a prefix. */
function get(path) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  return fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
}

/** Ask once, and show what came unless a later turn has begun meanwhile; then wait for the next. */
async function turn() {
  clearTimeout(timer);
  const mine = ++turns;
  const next = await read().catch((error) => () => Promise.reject(error));
  if (mine !== turns) return;
  let goesOn = true;
  try {
    goesOn = await next();
  } catch (error) {
    const since = lastAnswer ? ` since ${lastAnswer.toLocaleTimeString()}` : "";
    say(`The server does not answer${since}: ${error.message}. Asking again`, true);
  }
  const pause = history.readings.length === 1 ? FIRST_MS : EVERY_MS;
  if (goesOn && !document.hidden) timer = setTimeout(turn, pause);
}

/** Returns what shows the answers; that returns whether to go on without being told to. */
async function read() {
  const ready = await json(await get("ready"));
  const answer = await get("metrics");
  if (answer.status === 404) return showNothing;
  if (answer.status === 401 || answer.status === 403) {
    const { error } = await json(answer).catch(() => ({}));
    return () => refuse(error?.message ?? `/metrics answered ${answer.status}`);
  }
  if (!answer.ok) throw new Error(`/metrics answered ${answer.status}`);
  const reading = new Reading(await answer.text(), Date.now() / 1000);
  if (!reading.of("composer_build_info").length) throw new Error("/metrics holds none");
  const stored = history.readings.length % COMPOSITIONS_EVERY ? compositions : await listed();
  return () => accept(reading, ready, stored);
}

/** The stored compositions that this key sees; none where only the metrics are open. */
async function listed() {
  const answer = await get("v1/compositions");
  return answer.ok ? (await json(answer)).data : [];
}

const json = (answer) => answer.json().catch(() => {
  throw new Error(`${answer.url} answered ${answer.status} with no JSON`);
});

function accept(reading, ready, stored) {
  ask(null);
  history.add(reading);
  for (const [name, [value]] of Object.entries(FIGURES)) {
    lines[name] = [...(lines[name] ?? []), value(history)].slice(-history.readings.length);
  }
  const problems = ready.problems ?? [ready.error?.message].filter(Boolean);
  if (reading.sum("composer_engine_alive") === 0) say("The engine has died", true);
  else if (reading.sum("composer_draining") === 1) say("Draining: it is about to exit", true);
  else if (problems.length) say(`Not ready: ${problems.join("; ")}`, true);
  else say("Serving");
  show(history, lines, stored);
  compositions = stored;
  lastAnswer = new Date();
  return true;
}

function refuse(reason) {
  hideFigures();
  say("This server asks for a key");
  ask(key === null ? "" : reason);
  return false;
}

function showNothing() {
  hideFigures();
  say("This server shows no metrics: it was started with --metrics off", true);
  return false;
}

onKey((given) => {
  [key, history, lines] = [given, new History(), {}];
  turn();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.getElementById("key").hidden) turn();
});
turn();
