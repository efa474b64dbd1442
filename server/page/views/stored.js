// Stored compositions: names that every client may send as the model.

import { call, get } from "../lib/api.js";
import { parse } from "../lib/formula.js";
import { html, useLoad, useState } from "../lib/html.js";
import { History } from "../parts/history.js";

const NAME = "[A-Za-z_][A-Za-z0-9_.\\-]{0,63}";
const NAME_RULE = "1 to 64 letters, digits and _ . - that start with a letter or _";
const pathOf = (name) => `v1/compositions/${encodeURIComponent(name)}`;
const shown = (content) => (typeof content === "string" ? content : content && JSON.stringify(content));

export function Stored({ state, update, keyed, reload }) {
  const [list, setList] = useState([]);
  const [name, setName] = useState("");
  const [problem, setProblem] = useState(null);
  const [said, setSaid] = useState("");
  const load = async (signal) => {
    try {
      setList((await get("v1/compositions", { signal })).data);
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error.message);
    }
  };
  useLoad((signal) => {
    setProblem(null);
    load(signal);
  }, keyed);
  const change = async (what, action) => {
    setProblem(null);
    setSaid("");
    try {
      await action();
    } catch (error) {
      const isLate = error.code === "version_conflict";
      setProblem(isLate ? `${error.message} Someone else changed it meanwhile: look below, then do it again.` : error.message);
      load();
      return;
    }
    await load(); // The next change names the version that it replaces.
    setSaid(what);
    reload();
  };
  const save = (event) => {
    event.preventDefault();
    const present = list.find((one) => one.name === name);
    const headers = present ? { "If-Match": `"${present.version}"` } : { "If-None-Match": "*" };
    change(`${name} is stored. Every client may send it as the model.`, () =>
      call("PUT", pathOf(name), { json: parse(state.formula), headers }),
    );
  };
  return html`
    <form class="actions" onSubmit=${save}>
      <label>store it as <input value=${name} required pattern=${NAME} title=${NAME_RULE} onInput=${(e) => setName(e.target.value)} /></label>
      <button type="submit" class="primary">${list.some((one) => one.name === name) ? "Replace" : "Store"}</button>
      <span role="status">${said}</span>
    </form>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <section class="cards" aria-label="Stored compositions">
      ${list.map((one) => html`<${Composition} key=${one.name} one=${one} update=${update} change=${change} />`)}
    </section>
    ${list.length === 0 && html`<p class="help">Nothing is stored yet.</p>`}`;
}

function Composition({ one, update, change }) {
  const headers = { "If-Match": `"${one.version}"` };
  const remove = () => {
    if (!confirm(`Delete the stored composition ${one.name}? Its history remains.`)) return;
    change(`${one.name} is deleted.`, () => call("DELETE", pathOf(one.name), { headers }));
  };
  const rollBack = (to) =>
    change(`${one.name} is version ${to} again.`, () => call("POST", `${pathOf(one.name)}/rollback`, { json: { to }, headers }));
  return html`
    <article>
      <h3><code>${one.name}</code> <small>version ${one.version}${one.owner ? `, of ${one.owner}` : ""}</small></h3>
      <p><code>${one.plan?.formula ?? shown(one.composition) ?? "private"}</code></p>
      ${one.error && html`<p class="problem">${one.error}</p>`}
      <div class="row">
        <button type="button" onClick=${() => update({ formula: one.name, view: "compose" })}>Use</button>
        ${one.composition && html`<button type="button" onClick=${() => update({ formula: shown(one.composition), view: "compose" })}>Edit</button>`}
        <button type="button" onClick=${remove}>Delete</button>
      </div>
      <${History} path=${`${pathOf(one.name)}/history`} number=${one.version} about=${(version) => shown(version.composition)} onRollBack=${rollBack} />
    </article>`;
}
