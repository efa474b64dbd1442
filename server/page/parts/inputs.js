// The prompt and how to sample.

import { html, useState } from "../lib/html.js";

export function Inputs({ state, update, children }) {
  const [isOpen] = useState(state.system !== "" || state.temperature !== "0" || state.seed !== "");
  const set = (name) => (event) => update({ [name]: event.target.value });
  return html`
    <div class="inputs">
      ${children}
      <div class="prompt">
        <div class="label-row">
          <label for="prompt">${state.mode === "chat" ? "Question" : "Text to continue"}</label>
          <label class="quiet">as <select value=${state.mode} onChange=${set("mode")}>
            <option value="chat">chat</option><option value="text">text</option></select></label>
        </div>
        <textarea id="prompt" rows="3" placeholder=${state.mode === "chat" ? "Ask something" : "Begin a text"} value=${state.prompt} onInput=${set("prompt")}></textarea>
        <details open=${isOpen}>
          <summary>System prompt and sampling</summary>
          ${state.mode === "chat" && html`<label for="system">System prompt</label>
            <textarea id="system" rows="2" value=${state.system} onInput=${set("system")}></textarea>`}
          <div class="sampling">
            <label>temperature <input type="number" min="0" step="0.1" value=${state.temperature} onInput=${set("temperature")} /></label>
            <label>tokens <input type="number" min="1" value=${state.maxTokens} onInput=${set("maxTokens")} /></label>
            <label>seed <input type="number" min="0" value=${state.seed} onInput=${set("seed")} /></label>
          </div>
        </details>
      </div>
    </div>`;
}
