// Ask a composition, and see beside it what the base and its members say alone.

import { html, useEffect, useRef, useState } from "../lib/html.js";
import { requestOf } from "../lib/request.js";
import { empty, restOf, run } from "../lib/run.js";
import { Copies } from "../parts/copies.js";
import { TokenDetails } from "../parts/token_details.js";
import { colourings, MOST_TOKENS, Tokens, visible } from "../parts/tokens.js";

const TURN_MS = 350;
const MOST_BESIDE = 6;

export function Compose({ state, update, plan, inputs, runs }) {
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

  const begin = () => {
    aborter.current?.abort();
    aborter.current = new AbortController();
    return aborter.current.signal;
  };
  const start = () => {
    const signal = begin();
    setFocused(null);
    setPinned(null);
    let request;
    const answer = empty("answer");
    try {
      request = requestOf(state);
    } catch (error) {
      answer.error = error.message;
    }
    setBranches([answer]);
    setAt(0);
    setBeside([]);
    if (!request) return;
    const ask = (others) => {
      const columns = others.map(({ label }) => empty(label));
      columns.forEach((column, index) => run(column, requestOf(state, others[index]), signal, changed));
      setBeside((before) => [...before, ...columns]);
    };
    const onReport = (report) => isBeside && ask(alone(report.plan));
    run(answer, { ...request, explain: true }, signal, changed, onReport);
    if (isBeside) ask([{ label: "base", model: "base" }]);
  };
  const current = branches[at];

  /** Continue from another token in place of the one at `position`. */
  const fork = (position, other) => {
    const tokens = current.tokens.slice(0, position);
    const { best, base } = current.tokens[position];
    const kept = [...tokens, { ...other, position, best, base: base && { best: base.best }, forced: true }];
    const prefix = kept.map((token) => token.token).join("");
    const branch = empty(`${visible(JSON.stringify(other.token))} at ${position}`, prefix, kept);
    branch.members = current.members;
    setBranches([...branches, branch]);
    setAt(branches.length);
    setPinned(null);
    setFocused(position);
    run(branch, { ...requestOf(state, { prefix }), explain: true }, begin(), changed);
  };
  const goOn = () => {
    const tokens = current.tokens.slice();
    const prefix = tokens.map((token) => token.token).join("");
    current.text = prefix;
    run(current, { ...requestOf(state, { prefix }), explain: true }, begin(), changed);
  };

  useEffect(() => {
    if (runs > 0) start();
  }, [runs]);
  useEffect(() => () => aborter.current?.abort(), []);
  useEffect(() => {
    if (!follows || !plan || !current) return;
    const timer = setTimeout(start, TURN_MS);
    return () => clearTimeout(timer);
  }, [plan]);

  const isRunning = current?.isRunning || beside.some((answer) => answer.isRunning);
  const choices = current ? colourings(current) : [];
  const colouring = choices.find(({ id }) => id === state.colour) ?? choices.find(({ id }) => id === "contribution:1") ?? choices[0];
  const token = current?.tokens[pinned ?? focused];
  return html`
    ${inputs}
    <div class="actions">
      <button type="button" class="primary" onClick=${start} disabled=${!state.prompt}>Run</button>
      <button type="button" onClick=${() => aborter.current?.abort()} disabled=${!isRunning}>Stop</button>
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
          <${Legend} colouring=${colouring} />
          ${current.tokens.length > MOST_TOKENS && html`<p class="help">The first ${MOST_TOKENS} tokens have details.</p>`}
          <${Outcome} answer=${current} onContinue=${goOn} />
        </div>
        <${TokenDetails} token=${token} members=${current.members}
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
    )}</section>`}
    <${Copies} state=${state} />`;
}

/** Return the members of a plan, but the base, as requests of their own. */
function alone(plan) {
  const members = plan.members.map((member) =>
    member.prompt === "request"
      ? { label: member.model, model: member.model }
      : { label: `${member.model}, its own prompt`, ...ownPrompt(member) },
  );
  const known = new Map(members.map((member) => [member.label, member]));
  known.delete("base");
  return [...known.values()].slice(0, MOST_BESIDE);
}

function ownPrompt({ model, prompt }) {
  return { composition: { members: [{ model, weight: 1, ...(typeof prompt === "string" ? { prompt } : prompt) }] }, model: "base" };
}

function Outcome({ answer, onContinue }) {
  if (answer.error) {
    return html`<p class="problem" role="alert">${answer.error}
      ${answer.isCut && answer.tokens.length > 0 && onContinue && html` <button type="button" onClick=${onContinue}>Continue after ${answer.tokens.length} tokens</button>`}</p>`;
  }
  if (answer.isRunning || !answer.finish) return null;
  const note = answer.note && html`<p class="help">No details: ${answer.note}</p>`;
  const reasons = { length: "stopped at the token limit", stop: "ended by itself" };
  return html`${note}<p class="help">${reasons[answer.finish] ?? answer.finish}${!answer.text && ": an empty answer"}</p>`;
}

function Legend({ colouring }) {
  if (!colouring) return null;
  const both = colouring.id.startsWith("contribution");
  return html`<p class="legend" aria-hidden="true">
    ${both && html`<span class="token less4">against</span> <span class="token less2">a little</span> `}
    <span class="token">none</span> <span class="token more2">some</span> <span class="token more4">much</span>
  </p>`;
}
