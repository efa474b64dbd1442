// The request as texts for other clients.

import { html, useState } from "../lib/html.js";
import { copies } from "../lib/request.js";

export function Copies({ state }) {
  const [shown, setShown] = useState("curl");
  const [said, setSaid] = useState("");
  let texts;
  try {
    texts = copies(state);
  } catch {
    return null; // The formula box says what is wrong.
  }
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(texts[shown]);
      setSaid("Copied.");
    } catch {
      // Browsers refuse outside of https and localhost.
      getSelection().selectAllChildren(document.getElementById("copy-text"));
      setSaid("The browser does not let pages copy here; the text is selected.");
    }
  };
  return html`
    <details class="copies">
      <summary>Copy as …</summary>
      <div class="row" role="group" aria-label="Client">
        ${Object.keys(texts).map(
          (name) => html`<button type="button" aria-pressed=${name === shown} onClick=${() => {
            setShown(name);
            setSaid("");
          }}>${name}</button>`,
        )}
      </div>
      <pre id="copy-text" tabindex="0" aria-label=${shown}>${texts[shown]}</pre>
      <button type="button" onClick=${copy}>Copy</button> <span role="status">${said}</span>
    </details>`;
}
