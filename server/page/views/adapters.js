// Adapters: generations, who uses them, publishing, rolling back, policies.

import { call, get, upload } from "../lib/api.js";
import { html, useLoad, useRef, useState } from "../lib/html.js";
import { History } from "../parts/history.js";

const FILES = ["adapter_config.json", "adapter_model.safetensors"];

export function Adapters({ keyed, reload }) {
  const [list, setList] = useState(null);
  const [users, setUsers] = useState(null);
  const [problem, setProblem] = useState(null);
  const [said, setSaid] = useState("");
  const load = async (signal) => {
    try {
      setList(await get("v1/adapters", { signal }));
      setProblem(null);
      // A key may publish and not read compositions.
      get("v1/compositions", { signal }).then(({ data }) => setUsers(usersOf(data)), () => setUsers(null));
    } catch (error) {
      if (error.name !== "AbortError") setProblem(explained(error));
    }
  };
  useLoad(load, keyed);

  /** Do something to an adapter, say what came of it, and return whether it was done. */
  const change = async (what, action) => {
    setSaid("");
    setProblem(null);
    const refresh = () => get("v1/adapters").then(setList, () => {}); // The banner says that the server is away.
    try {
      await action();
    } catch (error) {
      setProblem(explained(error));
      refresh();
      return false;
    }
    await refresh(); // The next change names the version that it replaces.
    setSaid(what);
    reload();
    return true;
  };

  return html`
    <p role="status" class="said">${said}</p>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    ${list &&
    html`
      <${Publish} list=${list} change=${change} />
      ${list.retiring.length > 0 &&
      html`<p class="help">Requests in flight still use ${list.retiring.map((name) => html`<code>${name}</code> `)}</p>`}
      <section class="cards" aria-label="Adapters">
        ${list.data.map((adapter) => html`<${Adapter} key=${adapter.alias} adapter=${adapter}
          users=${users && (users.get(adapter.alias) ?? [])} change=${change} />`)}
      </section>`}
    ${list?.data.length === 0 && html`<p class="help">No adapter is published yet.</p>`}`;
}

function explained(error) {
  if (error.status === 401 || error.status === 403) return `${error.message} Enter a key with that role above, under “API key”.`;
  if (error.code === "version_conflict") return `${error.message} Someone else changed it meanwhile: look at the present state below, then do it again.`;
  return error.message;
}

/** Return alias -> names of the stored compositions that compute it. */
function usersOf(compositions) {
  const users = new Map();
  for (const { name, plan } of compositions) {
    for (const { model } of plan?.members ?? []) {
      users.set(model, [...new Set([...(users.get(model) ?? []), name])]);
    }
  }
  return users;
}

const pathOf = (alias) => `v1/adapters/${encodeURIComponent(alias)}`;
const matching = (adapter) => ({ "If-Match": `"${adapter.number}"` });

function Adapter({ adapter, users, change }) {
  const { alias, number, digest } = adapter;
  const remove = () => {
    if (!confirm(`Stop serving the adapter ${alias}? Its history remains.`)) return;
    change(`${alias} is no longer served.`, () => call("DELETE", pathOf(alias), { headers: matching(adapter) }));
  };
  const rollBack = (to) =>
    change(`${alias} is version ${to} again.`, () =>
      call("POST", `${pathOf(alias)}/rollback`, { json: { to }, headers: matching(adapter) }),
    );
  return html`
    <article>
      <h3><code>${alias}</code> <small>version ${number}</small></h3>
      <p><code title=${digest}>${digest?.slice(0, 12)}</code> · rank ${adapter.adapter?.rank ?? "?"} · ${adapter.served ? "served" : "not served"} · ${new Date(adapter.time).toLocaleString()}</p>
      ${adapter.error && html`<p class="problem">${adapter.error}</p>`}
      <p>${users && (users.length ? html`used by ${users.map((name) => html`<code>${name}</code> `)}` : "no stored composition uses it")}</p>
      <${Policy} adapter=${adapter} change=${change} />
      <${History} path=${`${pathOf(alias)}/history`} number=${number} onRollBack=${rollBack}
        about=${(version) => version.digest?.slice(0, 12)} />
      <button type="button" onClick=${remove}>Stop serving</button>
    </article>`;
}

function Policy({ adapter, change }) {
  const { alias, policy } = adapter;
  const submit = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const json = { ...policy, compositions: form.has("compositions"), negative: form.has("negative") };
    change(`The policy of ${alias} is set.`, () => call("PUT", `${pathOf(alias)}/policy`, { json, headers: matching(adapter) }));
  };
  return html`
    <details><summary>Policy</summary>
      <form onSubmit=${submit}>
        <label><input type="checkbox" name="compositions" checked=${policy.compositions} /> may be a member of compositions</label>
        <label><input type="checkbox" name="negative" checked=${policy.negative} /> may have a negative weight</label>
        <p class="help">${policy.keys ? `Only ${policy.keys.length} keys may use it.` : "Every key may use it."}</p>
        <button type="submit">Set</button>
      </form>
    </details>`;
}

function Publish({ list, change }) {
  const [files, setFiles] = useState([]);
  const [alias, setAlias] = useState("");
  const [progress, setProgress] = useState(null);
  const [isOver, setIsOver] = useState(false);
  const aborter = useRef(null);
  const picked = toPublish(files);
  const take = async (promised) => {
    const all = Array.from(await promised);
    setFiles(all);
    const archive = all.find(({ name }) => /\.(zip|tar\.gz|tgz|tar)$/.test(name));
    const folder = all[0]?.webkitRelativePath?.split("/")[0];
    setAlias((before) => before || folder || archive?.name.replace(/\.(zip|tar\.gz|tgz|tar)$/, "") || "");
  };
  const publish = async (event) => {
    event.preventDefault();
    const form = event.target;
    const present = list.data.find((adapter) => adapter.alias === alias);
    const headers = present ? matching(present) : { "If-None-Match": "*" };
    if (picked.type) headers["Content-Type"] = picked.type;
    aborter.current = new AbortController();
    setProgress(0);
    const isDone = await change(`${alias} is published.`, () =>
      upload(pathOf(alias), picked.body, { headers, onProgress: setProgress, signal: aborter.current.signal }),
    );
    setProgress(null);
    if (!isDone) return; // The files stay, for another try.
    setFiles([]);
    setAlias("");
    form.reset();
  };
  return html`
    <form class=${`drop${isOver ? " over" : ""}`} onSubmit=${publish}
      onDragOver=${(event) => {
        event.preventDefault();
        setIsOver(true);
      }}
      onDragLeave=${() => setIsOver(false)}
      onDrop=${(event) => {
        event.preventDefault();
        setIsOver(false);
        take(dropped(event.dataTransfer));
      }}>
      <h2>Publish an adapter</h2>
      <p>Drop its folder or an archive here, or <label class="pick">choose the files${" "}<input type="file" multiple onChange=${(event) => take(event.target.files)} /></label></p>
      ${files.length > 0 && html`<p class=${picked.problem ? "problem" : "help"}>${picked.problem ?? picked.names.join(", ")}</p>`}
      <div class="row">
        <label>alias <input value=${alias} required onInput=${(event) => setAlias(event.target.value)} /></label>
        <button type="submit" class="primary" disabled=${!picked.body || progress !== null || !alias}>
          ${list.data.some((adapter) => adapter.alias === alias) ? "Replace" : "Publish"}</button>
        ${progress !== null &&
        html`<progress max="1" value=${progress} aria-label="Upload"></progress>
          <button type="button" onClick=${() => aborter.current.abort()}>Stop</button>`}
      </div>
    </form>`;
}

/** Return {body, type, names} of an upload, or {problem}. */
function toPublish(files) {
  const archive = files.find(({ name }) => /\.(zip|tar\.gz|tgz|tar)$/.test(name));
  if (archive) return { body: archive, type: "application/octet-stream", names: [archive.name] };
  const form = new FormData();
  for (const name of FILES) {
    const file = files.find((one) => one.name === name);
    if (!file) return { problem: `${name} is missing. An adapter has the files ${FILES.join(" and ")}.` };
    form.append(name, file);
  }
  return { body: form, names: FILES };
}

/** Return the files that were dropped, those of a folder included. */
async function dropped(transfer) {
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return transfer.files;
  const files = [];
  for (const entry of entries) {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const inside = await new Promise((resolve, reject) => entry.createReader().readEntries(resolve, reject));
      for (const one of inside.filter((each) => each.isFile)) {
        files.push(await new Promise((resolve, reject) => one.file(resolve, reject)));
      }
    }
  }
  return files;
}
