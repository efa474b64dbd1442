// The versions of a name, and how to go back to one.

import { get } from "../lib/api.js";
import { html, useEffect, useState } from "../lib/html.js";

/** `about`: what a version holds, in a few words; none if it was deleted. */
export function History({ path, number, about, onRollBack }) {
  const [isOpen, setIsOpen] = useState(false);
  const [versions, setVersions] = useState([]);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    if (!isOpen) return;
    get(path).then(
      ({ data }) => {
        setVersions(data.toReversed());
        setProblem(null);
      },
      (error) => setProblem(error.message),
    );
  }, [isOpen, number]);
  return html`
    <details onToggle=${(event) => setIsOpen(event.target.open)}><summary>History</summary>
      ${problem && html`<p class="problem">${problem}</p>`}
      <ol class="history">${versions.map((version) => {
        const count = version.number ?? version.version;
        return html`<li>
          <span>${count}: ${version.action}</span> <code>${about(version)}</code>
          <small>${new Date(version.time).toLocaleString()}${version.actor ? `, ${version.actor}` : ""}</small>
          ${count !== number && about(version) &&
          html`<button type="button" aria-label=${`Back to version ${count}`} onClick=${() => onRollBack(count)}>back to this</button>`}
        </li>`;
      })}</ol>
    </details>`;
}
