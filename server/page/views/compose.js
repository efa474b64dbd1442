// Ask a composition, and see beside it what the base and its members say alone.

import { post } from "../lib/api.js";
import { asked } from "../lib/formula.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { requestOf } from "../lib/request.js";
import { empty, restOf, run } from "../lib/run.js";
import { Copies } from "../parts/copies.js";
import { TokenDetails } from "../parts/token_details.js";
import { colourings, MOST_TOKENS, Tokens, visible } from "../parts/tokens.js";

const TURN_MS = 350;
const MOST_BESIDE = 8;

export function Compose({ state, update, models, plan, runs }) {
  const [branches, setBranches] = useState([]);
  const [at, setAt] = useState(0);
  const [beside, setBeside] = useState([]);
  const [isBeside, setIsBeside] = useState(true);
  const [follows, setFollows] = useState(false);
  const [focused, setFocused] = useState(null);
  const [pinned, setPinned] = useState(null);
  const [, redraw] = useState(0);
  const aborter = useRef(null);
  const changed = () => redraw((count) => count + 1);

  const signal = () => {
    if (!aborter.current || aborter.current.signal.aborted) aborter.current = new AbortController();
    return aborter.current.signal;
  };
  const start = () => {
    if (!state.prompt) return;
    aborter.current?.abort();
    setFocused(null);
    setPinned(null);
    const answer = { ...empty("answer"), asked: state };
    setBranches([answer]);
    setAt(0);
    setBeside([]);
    const streams = signal();
    const ask = (models) => {
      const columns = models.map((model) => empty(model));
      columns.forEach((column) => run(column, () => requestOf(state, { model: column.label }), streams, changed));
      setBeside((before) => [...before, ...columns]);
    };
    const onReport = (report) => isBeside && ask(alone(report.plan).slice(0, MOST_BESIDE));
    run(answer, () => ({ ...requestOf(state), explain: true }), streams, changed, onReport);
    const hasBase = !models.length || models.some(({ id }) => id === "base"); // They may not have come yet.
    if (isBeside && hasBase) ask(["base"]);
  };
  const current = branches[at];

  /** Continue from another token in place of the one at `position`. */
  const fork = (position, other) => {
    const tokens = current.tokens.slice(0, position);
    const { best, base } = current.tokens[position];
    const kept = [...tokens, { ...other, position, best, base: base && { best: base.best }, forced: true }];
    const branch = empty(`${visible(JSON.stringify(other.token))} at ${position}`, "", kept);
    Object.assign(branch, { report: current.report, adapters: current.adapters, asked: current.asked });
    setBranches([...branches, branch]);
    setAt(branches.length);
    setPinned(null);
    setFocused(position);
    goOn(branch);
  };
  /** Stream what follows the tokens that an answer has, of the request that it answers. */
  const goOn = (answer) => {
    const { asked: then, tokens } = answer;
    answer.goesOn = true;
    const streams = signal();
    const ask = async () => {
      // Single tokens may be parts of characters.
      while (tokens.at(-1)?.token.includes("\ufffd")) tokens.pop();
      const body = { ...asked(then.formula || "base"), tokens: tokens.map(({ id }) => id) };
      answer.text = (await post("detokenize", body, { signal: streams })).prompt;
      return { ...requestOf({ ...then, maxTokens: state.maxTokens }, { prefix: answer.text }), explain: true };
    };
    run(answer, ask, streams, changed);
  };

  useEffect(() => {
    if (runs > 0) start();
  }, [runs]);
  useEffect(() => {
    if (!follows || !plan || !current || state.view !== "compose") return;
    if (state.formula === current.asked.formula) return; // Something else was checked.
    const timer = setTimeout(start, TURN_MS);
    return () => clearTimeout(timer);
  }, [plan]);

  const isRunning = [...branches, ...beside].some((answer) => answer.isRunning);
  const token = current?.tokens[pinned ?? focused];
  const members = current?.report?.plan.members.map(labelOf) ?? [];
  const others = current?.report ? alone(current.report.plan) : [];
  const choices = current?.tokens.length ? colourings(members, current.tokens) : [];
  const colouring = [state.colour, firstColour(current?.report?.plan)].map((wanted) =>
    choices.find(({ id }) => id === wanted)).find(Boolean) ?? choices[0];
  return html`
    <div class="actions">
      <button type="button" class="primary" onClick=${start} disabled=${!state.prompt}>Run</button>
      <button type="button" onClick=${() => aborter.current?.abort()} disabled=${!isRunning}>Stop</button>
      ${!state.prompt && html`<span class="help">Type a ${state.mode === "text" ? "prompt" : "question"} first.</span>`}
      <label><input type="checkbox" checked=${isBeside} onChange=${(e) => setIsBeside(e.target.checked)} /> base and members beside it</label>
      <label><input type="checkbox" checked=${follows} onChange=${(e) => setFollows(e.target.checked)} /> run again as I turn a weight</label>
    </div>
    ${current &&
    html`<section class="answer" aria-label="The composition's answer" aria-busy=${current.isRunning}>
      <header>
        <h2>Composition</h2>
        ${current.report && html`<code class="plan">${current.report.plan.formula}</code> <small>${current.report.rows} ${current.report.rows === 1 ? "row" : "rows"}</small>`}
        ${choices.length > 0 &&
        html`<label>colour by <select value=${colouring.id} onChange=${(e) => update({ colour: e.target.value })}>
          ${choices.map(({ id, label }) => html`<option value=${id}>${label}</option>`)}</select></label>`}
      </header>
      ${branches.length > 1 &&
      html`<nav class="branches" aria-label="Branches">${branches.map(
        (branch, index) => html`<button type="button" aria-pressed=${index === at} onClick=${() => {
          setAt(index);
          setPinned(null);
        }}>${branch.label}</button>`,
      )}</nav>`}
      <div class="with-details">
        <div>
          <${Tokens} tokens=${current.tokens} rest=${restOf(current)} colouring=${colouring} focused=${focused}
            pinned=${pinned} onFocus=${setFocused} onPin=${(index) => setPinned(index === pinned ? null : index)} />
          ${current.tokens.some(({ token }) => token.includes("\ufffd")) &&
          html`<h3>As text</h3><p class="text">${visible(current.text)}</p>`}
          <${Legend} colouring=${colouring} />
          ${current.was && html`<p class="help">The first tokens were computed ${current.was === current.report.plan.formula
            ? "with adapters that have since been replaced" : html`by <code>${current.was}</code>`}. Their figures are left out.</p>`}
          ${current.goesOn && /^(mixture|switch)\(/.test(current.report?.plan.formula) &&
          html`<p class="help">Where an answer goes on, the router starts anew.</p>`}
          ${current.tokens.length > MOST_TOKENS && html`<p class="help">The first ${MOST_TOKENS} tokens have details.</p>`}
          <${Outcome} answer=${current} onContinue=${() => goOn(current)} />
        </div>
        <${TokenDetails} token=${token} members=${members}
          onFork=${(other) => fork(token.position, other)} />
      </div>
    </section>`}
    ${beside.length > 0 &&
    html`<section class="columns" aria-label="Alone">${beside.map(
      (answer) => html`<article aria-busy=${answer.isRunning}>
        <h3><code>${answer.label}</code></h3>
        <p class="text">${visible(answer.text)}</p>
        <${Outcome} answer=${answer} />
      </article>`,
    )}</section>
      ${others.length > MOST_BESIDE && html`<p class="help">The first ${MOST_BESIDE} of ${others.length} members were asked alone.</p>`}`}
    <${Copies} state=${state} />`;
}

const labelOf = ({ model, prompt }) => (prompt === "request" ? model : `${model}, its own prompt`);

/** Return the models of a plan that read the request, but the base. */
function alone(plan) {
  const names = plan.members.filter(({ prompt }) => prompt === "request").map(({ model }) => model);
  const others = new Set(names.filter((name) => name !== "base"));
  return [...others];
}

/** Return the colouring by the first member that the plan adds to the base, else by the second. */
function firstColour(plan) {
  const added = plan?.members.findIndex(({ model, weight }) => model !== "base" && weight > 0) ?? -1;
  return `contribution:${added < 0 ? 1 : added}`;
}

function Outcome({ answer, onContinue }) {
  if (answer.error) {
    return html`<p class="problem" role="alert">${answer.error}
      ${answer.isCut && answer.tokens.length > 0 && onContinue && html` <button type="button" onClick=${onContinue}>Continue after ${answer.tokens.length} tokens</button>`}</p>`;
  }
  if (answer.isRunning || !answer.finish) return null;
  const note = answer.note && html`<p class="help">No details: ${answer.note}</p>`;
  const reasons = { length: "stopped at the token limit", stop: "ended by itself", stopped: "stopped by you" };
  return html`${note}<p class="help">${reasons[answer.finish] ?? answer.finish}${answer.finish === "stop" && !answer.text && ": an empty answer"}</p>`;
}

function Legend({ colouring }) {
  if (!colouring) return null;
  const both = colouring.id.startsWith("contribution");
  return html`<p class="legend" aria-hidden="true">
    ${both && html`<span class="token less4">much against</span> <span class="token less2">against</span> `}
    <span class="token">${both ? "neither" : "none"}</span> <span class="token more2">${both ? "for" : "some"}</span> <span
      class="token more4">${both ? "much for" : "much"}</span>
  </p>`;
}
