// The page: its state, its views, and what is said when the server is away or wants a key.

import { get, hasKey, onConnection, setKey } from "./lib/api.js";
import { weights } from "./lib/formula.js";
import { read, write } from "./lib/fragment.js";
import { html, render, useEffect, useErrorBoundary, useLoad, useRef, useState } from "./lib/html.js";
import { FormulaBox } from "./parts/formula_box.js";
import { Inputs } from "./parts/inputs.js";
import { Weights } from "./parts/weights.js";
import { Adapters } from "./views/adapters.js";
import { Compose } from "./views/compose.js";
import { Fit } from "./views/fit.js";
import { Stored } from "./views/stored.js";
import { Sweep } from "./views/sweep.js";

const VIEWS = {
  compose: "Compose",
  sweep: "Sweep",
  fit: "Fit",
  adapters: "Adapters",
  stored: "Stored",
};

function App() {
  const [state, setState] = useState(read);
  const [models, setModels] = useState([]);
  const [plan, setPlan] = useState(null);
  const [problem, setProblem] = useState(null);
  const [reachable, setReachable] = useState(true);
  const [keyed, setKeyed] = useState(0);
  const [runs, setRuns] = useState(0);
  const isTyped = useRef(false); // An emptied box stays empty.
  const update = (changes) => {
    isTyped.current ||= "formula" in changes;
    setState((before) => ({ ...before, ...changes }));
  };
  const load = async (signal) => {
    try {
      const { data } = await get("v1/models", { signal });
      if (!Array.isArray(data)) throw new Error("What answers /v1/models is not this server. Is a proxy between?");
      setModels(data);
      setProblem(null);
      setState((before) => (before.formula || isTyped.current ? before : { ...before, formula: firstFormula(data) }));
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error);
    }
  };

  useLoad(load, keyed);
  useEffect(() => onConnection((value) => {
    setReachable(value);
    if (value) load();
  }), []);
  useEffect(() => {
    const onHash = () => setState(read());
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  useEffect(() => {
    const timer = setTimeout(() => write(state), 200);
    return () => clearTimeout(timer);
  }, [state]);
  useEffect(() => {
    const onKey = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.view === "compose") {
        setRuns((count) => count + 1);
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [state.view]);

  const { view } = state;
  const opened = useRef(new Set()).current; // These views keep what they show.
  opened.add(view);
  const isName = models.some(({ id }) => id === state.formula.trim());
  const numbers = isName ? [] : weights(state.formula);
  const box = html`
    <${FormulaBox} state=${state} update=${update} models=${models} onPlan=${setPlan}
      onRun=${() => view === "compose" && setRuns((count) => count + 1)} />
    <${Weights} formula=${state.formula} all=${numbers} onChange=${(formula) => update({ formula })} />`;
  const props = { state, update, models, plan, numbers, runs, keyed, reload: load };
  return html`
    <header class="top">
      <h1>Composer</h1>
      <nav aria-label="Views">${Object.entries(VIEWS).map(
        ([name, label]) => html`<button type="button" aria-current=${name === view ? "page" : undefined}
          onClick=${() => update({ view: name })}>${label}</button>`,
      )}</nav>
      <a href="status" onClick=${() => write(state)}>Status</a>
      <${Key} wanted=${problem?.status === 401} onKey=${() => setKeyed((count) => count + 1)} />
    </header>
    <div role="status" class="banner">
      ${!reachable && html`<p class="problem">The server does not answer. What you see here stays; it is asked again every second.</p>`}
      ${reachable && problem && html`<p class="problem">${problem.message}</p>`}
    </div>
    <main>
      ${(view === "compose" || view === "sweep") && html`<${Inputs} state=${state} update=${update}>${box}</${Inputs}>`}
      ${(view === "fit" || view === "stored") && html`<div class="alone">${box}</div>`}
      ${Object.entries({ compose: Compose, sweep: Sweep, fit: Fit }).map(
        ([name, View]) => opened.has(name) && html`<div key=${name} hidden=${name !== view}><${Guarded}><${View} ...${props} /></${Guarded}></div>`,
      )}
      ${view === "adapters" && html`<${Guarded} key=${view}><${Adapters} ...${props} /></${Guarded}>`}
      ${view === "stored" && html`<${Guarded} key=${view}><${Stored} ...${props} /></${Guarded}>`}
    </main>`;
}

/** A view, or what is wrong with what it should show. */
function Guarded({ children }) {
  const [error, startAnew] = useErrorBoundary();
  if (!error) return children;
  return html`<p class="problem" role="alert">The answer is not one that this page can show (${error.message}). Is a proxy between?
    <button type="button" onClick=${startAnew}>Start this view anew</button></p>`;
}

function Key({ wanted, onKey }) {
  const submit = (event) => {
    event.preventDefault();
    setKey(new FormData(event.target).get("key"));
    event.target.parentElement.open = false;
    onKey();
  };
  return html`
    <details class="key" open=${wanted || undefined}>
      <summary>${hasKey() ? "API key set" : "API key"}</summary>
      <form onSubmit=${submit}>
        <label for="key">API key <small>kept in this page's memory only</small></label>
        <input id="key" name="key" type="password" autocomplete="off" pattern="[ -~]*" title="ASCII only" />
        <button type="submit">Use</button>
      </form>
    </details>`;
}

/** A first composition of what is served: the base and its first two adapters. */
function firstFormula(models) {
  const names = models
    .filter((model) => model.owned_by === "adapters" && model.parent === "base")
    .map((model) => model.id);
  const [first, second] = names.includes("positive") ? ["positive", "negative"] : names.slice(-2);
  if (!first) return "base";
  if (!models.some(({ id }) => id === "base")) return first; // a key with models of its own
  return second && names.includes(second) ? `base + 1.5*(${first} - ${second})` : `base + 0.5*${first}`;
}

const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} />`, place);
