// The numbers of one token, and the tokens that might have stood there.

import { html } from "../lib/html.js";
import { percent, visible } from "./tokens.js";

const nats = (value) => (value == null ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(3)}`);
const plain = (value) => (value == null ? "∞" : value.toFixed(3));

export function TokenDetails({ token, members, onFork }) {
  if (!token) {
    return html`<aside class="details" aria-label="One token">
      <p class="help">Point at a token, or walk with the arrow keys, to see who wanted it. Click it to
      continue from another one.</p></aside>`;
  }
  const { base } = token;
  return html`
    <aside class="details" aria-label="One token">
      <h3><code>${visible(JSON.stringify(token.token))}</code> ${percent(token.logprob)}
        <small>log p ${token.logprob.toFixed(3)} · id ${token.id} · position ${token.position}</small></h3>
      ${token.forced && html`<p>You chose this token.</p>`}
      ${token.member_logprobs?.length > 0 &&
      html`<table>
        <thead><tr><th scope="col">member</th><th scope="col">alone</th>
          ${token.contributions?.length > 0 && html`<th scope="col">contribution</th>`}
          ${token.weights?.length > 0 && html`<th scope="col">weight</th><th scope="col">responsibility</th>`}</tr></thead>
        <tbody>${members.map(
          (member, index) => html`<tr>
            <th scope="row"><code>${member}</code></th>
            <td>${percent(token.member_logprobs[index])}</td>
            ${token.contributions?.length > 0 && html`<td>${nats(token.contributions[index])}</td>`}
            ${token.weights?.length > 0 &&
            html`<td>${plain(token.weights[index])}</td><td>${plain(token.responsibilities[index])}</td>`}
          </tr>`,
        )}</tbody>
      </table>`}
      ${token.model && html`<p>Computed by <code>${token.model}</code>.</p>`}
      ${base && !token.forced &&
      html`<p>The base alone: ${percent(base.logprob)}, rank ${base.rank}; KL from the base ${plain(base.kl)} nats.
        ${token.changed ? " Its first choice was another." : " Its first choice was the same."}</p>`}
      <div class="alternatives">
        <${Best} title="Composition" best=${token.best} token=${token} onFork=${onFork} />
        ${base && html`<${Best} title="Base" best=${base.best} token=${token} onFork=${onFork} />`}
      </div>
    </aside>`;
}

const isControl = (text) => /^<\|?[^<>]*\|?>$/.test(text) || text.includes("\ufffd") || text === "";

function Best({ title, best, token, onFork }) {
  return html`<section aria-label=${`Most likely for ${title}`}>
    <h4>${title}</h4>
    <ol>${(best ?? []).map(
      (other) => html`<li>
        <button type="button" disabled=${other.id === token.id || isControl(other.token)}
          title=${isControl(other.token) ? "No text that an answer could go on from" : "Continue from this token"}
          onClick=${() => onFork(other)}
        ><code>${visible(JSON.stringify(other.token))}</code> ${percent(other.logprob)}</button>
      </li>`,
    )}</ol>
  </section>`;
}
