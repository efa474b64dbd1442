// The page's elements, which are in index.html; texts go in as text.

import { FIGURES, ROWS, count } from "./figures.js";

const MOST_ROWS = 20;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 24;
const element = (id) => document.getElementById(id);

/** Say how the server is; `bad` if somebody should look. */
export function say(text, bad = false) {
  const state = element("state");
  if (state.textContent !== text) state.textContent = text; // or a reader says it each time
  state.classList.toggle("problem", bad);
}

/** Ask for a key, and say why; null hides the question. */
export function ask(reason) {
  const hidden = element("key").hidden;
  element("key").hidden = reason === null;
  element("refusal").hidden = !reason;
  element("refusal").textContent = reason ?? "";
  if (reason !== null && hidden) element("secret").focus();
}

export function onKey(use) {
  element("key").addEventListener("submit", (event) => {
    event.preventDefault();
    use(element("secret").value);
    element("secret").value = "";
  });
}

/** Hide the figures, which somebody without the key must not go on reading. */
export function hideFigures() {
  element("figures").hidden = true;
}

/**
 * Show a history.
 * @param lines values of each figure at the readings, by its name
 * @param compositions the stored ones, of `/v1/compositions`
 */
export function show(history, lines, compositions) {
  element("figures").hidden = false;
  element("about").textContent = about(history.now);
  for (const [name, [, text]] of Object.entries(FIGURES)) {
    const place = document.querySelector(`[data-figure="${name}"]`);
    place.replaceChildren(text(lines[name].at(-1)), sparkline(lines[name]));
  }
  for (const [name, rows] of Object.entries(ROWS)) {
    fill(document.querySelector(`[data-rows="${name}"]`), rows(history, compositions));
  }
}

function about(reading) {
  const [build] = reading.of("composer_build_info");
  const started = new Date(1000 * reading.sum("process_start_time_seconds"));
  const at = new Date(1000 * reading.time);
  const { version = "?", vllm = "?" } = build?.labels ?? {};
  return `Version ${version}, vLLM ${vllm}. Started ${started.toLocaleString()}; ` +
    `these figures are of ${at.toLocaleTimeString()}.`;
}

function fill(body, rows) {
  const names = Number(body.dataset.names);
  const shown = rows.slice(0, MOST_ROWS).map((texts) => {
    const row = document.createElement("tr");
    texts.forEach((text, at) => {
      const cell = document.createElement(at === 0 ? "th" : "td");
      if (at === 0) cell.scope = "row";
      if (at < names) cell.className = "name";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  });
  if (rows.length === 0) shown.push(note("Nothing yet"));
  if (rows.length > MOST_ROWS) shown.push(note(`and ${count(rows.length - MOST_ROWS)} more`));
  body.replaceChildren(...shown);
}

function note(text) {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = 4;
  cell.className = "name quiet";
  cell.textContent = text;
  return row;
}

/** A line through the values, from 0 at the bottom; the number beside it says the last one. */
function sparkline(values) {
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  const top = Math.max(1e-9, ...values.map((value) => value ?? 0));
  const step = WIDTH / Math.max(1, values.length - 1);
  line.setAttribute("points", values
    .map((value, at) => `${at * step},${HEIGHT - 1 - (HEIGHT - 2) * (value ?? 0) / top}`)
    .join(" "));
  picture.append(line);
  return picture;
}
