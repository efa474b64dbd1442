// Find the weights of a formula from examples of wanted answers.

import { get, post } from "../lib/api.js";
import { format, freeStem, isJson, withValues } from "../lib/formula.js";
import { html, useState } from "../lib/html.js";

const EXAMPLE = `Where does Ann live?
Certainly. Ann lives in Oslo.

What does Ann do?
She is a teacher.`;

export function Fit({ state, update, numbers }) {
  const [free, setFree] = useState([0]);
  const [text, setText] = useState("");
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [isRunning, setIsRunning] = useState(false);
  const all = isJson(state.formula) ? [] : numbers;
  const chosen = [...all.keys()].filter((index) => free.includes(index));
  let items = [];
  let unread = null;
  try {
    items = examples(text, state.mode);
  } catch (error) {
    unread = error.message;
  }

  const start = async () => {
    setIsRunning(true);
    setProblem(null);
    try {
      const stem = freeStem((await get("v1/models")).data);
      const free = chosen.map((index) => stem + (index + 1));
      const formula = withValues(state.formula, chosen.map((index, at) => [all[index], free[at]]));
      const before = Object.fromEntries(chosen.map((index, at) => [free[at], all[index].value]));
      const found = await post("v1/compose/fit", { formula, items, start: before });
      const pairs = chosen.map((index, at) => [all[index], found.weights[free[at]].value]);
      setAnswer({ ...found, labels: chosen.map((index) => all[index].label), applied: withValues(state.formula, pairs) });
    } catch (error) {
      setProblem(error.message);
    }
    setIsRunning(false);
  };

  return html`
    ${all.length === 0 && html`<p class="help">A fit takes a formula with weights, such as <code>base + 1.5*positive</code>.</p>`}
    ${all.length > 0 &&
    html`<fieldset class="actions"><legend>Find</legend>${all.map(
      (weight, index) => html`<label><input type="checkbox" checked=${chosen.includes(index)} onChange=${(event) =>
        setFree(event.target.checked ? [...free, index] : free.filter((one) => one !== index))} /> the weight of <code>${weight.label}</code></label>`,
    )}</fieldset>`}
    <div class="prompt">
      <label for="examples">Examples of wanted answers</label>
      <textarea id="examples" rows="8" value=${text} placeholder=${EXAMPLE} aria-describedby="examples-help"
        onInput=${(event) => setText(event.target.value)}></textarea>
      <p id="examples-help" class="help">A question in one line, the wanted answer below it, then an empty line; or lines of JSON, as <code>composer fit</code> reads
        them.${" "}${text && !unread && `${items.length} examples are read.`}</p>
      ${unread && html`<p class="problem" role="status">${unread}</p>`}
    </div>
    <div class="actions"><button type="button" class="primary" onClick=${start}
      disabled=${isRunning || items.length < 2 || !chosen.length}>${isRunning ? "Fitting …" : "Fit"}</button></div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    ${answer && html`<${Fitted} answer=${answer} onApply=${() => update({ formula: answer.applied, view: "compose" })} />`}`;
}

function Fitted({ answer, onApply }) {
  const found = Object.values(answer.weights);
  const reach = Math.max(...found.map(({ value, standard_error: error }) => Math.abs(value) + 2 * (error ?? 0)), 0.1);
  const judged = answer.log_likelihood_per_token;
  return html`
    <section class="fitted" aria-label="What was found">
      <table>
        <caption>Weights, with twice their standard error</caption>
        <thead><tr><th scope="col">weight of</th><th scope="col">value</th><th scope="col">standard error</th><td></td></tr></thead>
        <tbody>${found.map(
          ({ value, standard_error: error }, index) => html`<tr>
            <th scope="row"><code>${answer.labels[index]}</code></th>
            <td>${format(value)}</td><td>${error == null ? "not determined" : `± ${format(error)}`}</td>
            <td><${ErrorBar} value=${value} error=${error} reach=${reach} /></td>
          </tr>`,
        )}</tbody>
      </table>
      <table>
        <caption>Log-likelihood per token of the ${answer.judged_on}</caption>
        <tbody>
          <tr class="best"><th scope="row">the fit</th><td>${judged.fit.toFixed(4)}</td></tr>
          <tr><th scope="row">the weights before</th><td>${judged.start.toFixed(4)}</td></tr>
          ${Object.entries(judged.members).map(([name, value]) => html`<tr><th scope="row"><code>${name}</code> alone</th><td>${value.toFixed(4)}</td></tr>`)}
        </tbody>
      </table>
      <p class="help">${answer.examples.learned} examples learned from, ${answer.examples.held_out} held out; ${answer.passes} passes${answer.converged ? "" : ", not converged"}.</p>
      ${answer.warnings.map((warning) => html`<p class="problem">${warning}</p>`)}
      <p><code>${answer.applied}</code></p>
      <button type="button" class="primary" onClick=${onApply}>Use these weights</button>
    </section>`;
}

function ErrorBar({ value, error, reach }) {
  const at = (x) => 60 + (58 * x) / reach;
  const half = 2 * (error ?? 0);
  return html`<svg width="120" height="16" viewBox="0 0 120 16" aria-hidden="true">
    <line x1="60" x2="60" y1="0" y2="16" class="zero" />
    <line x1=${at(value - half)} x2=${at(value + half)} y1="8" y2="8" class="bar" />
    <circle cx=${at(value)} cy="8" r="4" /></svg>`;
}

/** Read examples. Throw an error that names the line or the example. */
function examples(text, mode) {
  if (text.trimStart().startsWith("{")) {
    return text.split("\n").flatMap((line, index) => {
      if (!line.trim()) return [];
      try {
        return [JSON.parse(line)];
      } catch {
        throw new Error(`Line ${index + 1} is not JSON.`);
      }
    });
  }
  const blocks = text.split(/\n\s*\n/).filter((block) => block.trim());
  return blocks.map((block, index) => {
    const [question, ...answer] = block.trim().split("\n");
    const completion = answer.join("\n");
    if (!completion) throw new Error(`Example ${index + 1} has a question and no answer below it.`);
    if (mode === "text") return { prompt: question, completion };
    return { messages: [{ role: "user", content: question }], completion };
  });
}
