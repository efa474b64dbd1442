// One prompt with every weight of a grid: an answer for each, and how likely a reference is.

import { get, post } from "../lib/api.js";
import { format, freeStem, isJson, withValues, withWeight } from "../lib/formula.js";
import { html, useState } from "../lib/html.js";
import { beginningOf, number } from "../lib/request.js";
import { Chart } from "../parts/chart.js";
import { visible } from "../parts/tokens.js";

const MOST_POINTS = 16;

export function Sweep({ state, update, numbers }) {
  const [chosen, setChosen] = useState(0);
  const [from, setFrom] = useState("0");
  const [to, setTo] = useState("2");
  const [count, setCount] = useState("5");
  const [reference, setReference] = useState("");
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [isRunning, setIsRunning] = useState(false);
  const all = isJson(state.formula) ? [] : numbers;
  const weight = all[Math.min(chosen, all.length - 1)];

  const start = async () => {
    setIsRunning(true);
    setProblem(null);
    try {
      const values = grid(Number(from), Number(to), Number(count));
      const free = freeStem((await get("v1/models")).data);
      const body = {
        formula: withValues(state.formula, [[weight, free]]),
        values: { [free]: values },
        ...beginningOf(state),
        max_tokens: number(state.maxTokens),
        temperature: number(state.temperature),
        reference: reference || undefined,
        seed: number(state.seed),
      };
      const found = await post("v1/compose/sweep", body);
      const formulas = values.map((value) => withWeight(state.formula, weight, value));
      setAnswer({ ...found, weights: values, formulas });
    } catch (error) {
      setProblem(error.message);
    }
    setIsRunning(false);
  };

  return html`
    ${!weight
      ? html`<p class="help">A sweep takes a formula with a weight to vary, such as <code>base + 1.5*positive</code>.</p>`
      : html`<div class="actions">
          <label>vary <select value=${chosen} onChange=${(e) => setChosen(Number(e.target.value))}>
            ${all.map((one, index) => html`<option value=${index}>the weight of ${one.label}</option>`)}</select></label>
          <label>from <input type="number" step="0.25" value=${from} onInput=${(e) => setFrom(e.target.value)} /></label>
          <label>to <input type="number" step="0.25" value=${to} onInput=${(e) => setTo(e.target.value)} /></label>
          <label>points <input type="number" min="2" max=${MOST_POINTS} value=${count} onInput=${(e) => setCount(e.target.value)} /></label>
          <label class="wide">reference (optional) <input value=${reference} onInput=${(e) => setReference(e.target.value)} /></label>
          <button type="button" class="primary" onClick=${start} disabled=${isRunning || !state.prompt}>${isRunning ? "Running …" : "Sweep"}</button>
        </div>`}
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    ${answer && html`<${Grid} answer=${answer} update=${update} />`}`;
}

function Grid({ answer, update }) {
  const points = answer.data;
  const tokens = answer.reference?.tokens.length;
  const means = tokens ? points.map((point) => point.reference.logprob / tokens) : null;
  const best = means ? means.indexOf(Math.max(...means)) : -1;
  return html`
    ${means &&
    html`<${Chart} x=${answer.weights} y=${means} xLabel="weight"
      yLabel="log p per token" />`}
    <section class="multiples" aria-label="Answers">
      ${points.map(
        (point, index) => html`<article class=${index === best ? "best" : ""}>
          <h3>${format(answer.weights[index])} ${means && html`<small>${means[index].toFixed(3)} per token${index === best ? ", the highest" : ""}</small>`}</h3>
          <p class="text">${visible(point.text) || "(empty)"}</p>
          <button type="button" onClick=${() => update({ formula: answer.formulas[index], view: "compose" })}>Use this weight</button>
        </article>`,
      )}
    </section>`;
}

/** Return `count` values from one end to the other, the ends included. */
function grid(from, to, count) {
  if (!(count >= 2 && count <= MOST_POINTS)) throw new Error(`Points: ${count}; choose 2 to ${MOST_POINTS}.`);
  const step = (to - from) / (count - 1);
  return Array.from({ length: count }, (_, index) => Number((from + index * step).toFixed(4)));
}
