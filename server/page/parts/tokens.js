// An answer token by token, coloured by what the composition says of each.

import { html, useRef } from "../lib/html.js";

export const MOST_TOKENS = 300;

/** Show control characters, which a page would swallow. */
export const visible = (text) =>
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (character) =>
    character === "\u007f" ? "␡" : String.fromCharCode(0x2400 + character.charCodeAt(0)),
  );

/** Return what tokens can be coloured by: [{id, label, of(token) -> band from -4 to 4}]. */
export function colourings(members, tokens) {
  const first = tokens.findLast((token) => !token.forced) ?? {};
  const found = [];
  members.forEach((member, index) => {
    if (first.contributions?.length) {
      found.push({
        id: `contribution:${index}`,
        label: `contribution of ${member}`,
        of: (token) => signed(token.contributions?.[index]),
      });
    }
    if (first.weights?.length) {
      const share = (name) => (token) => Math.round(4 * (token[name]?.[index] ?? 0));
      found.push({ id: `weight:${index}`, label: `router weight of ${member}`, of: share("weights") });
      found.push({
        id: `share:${index}`,
        label: `responsibility of ${member}`,
        of: share("responsibilities"),
      });
    }
    if (first.model) {
      const of = (token) => (token.model === member ? 3 : 0);
      found.push({ id: `model:${index}`, label: `tokens by ${member}`, of });
    }
  });
  if (tokens.some((token) => token.base)) {
    found.push({ id: "changed", label: "changed choice", of: (token) => (token.changed ? 4 : 0) });
    found.push({ id: "kl", label: "distance from the base (KL)", of: (token) => (token.forced ? 0 : band(token.base?.kl)) });
  }
  found.push({ id: "surprise", label: "surprise (−log p)", of: (token) => band(-token.logprob) });
  return found;
}

/** Bands of a size in nats: 0 below 0.1, then one more at 0.1, 0.5, 1.5 and 4. */
const band = (nats) =>
  nats == null ? 4 : [0.1, 0.5, 1.5, 4].filter((edge) => nats >= edge).length;
const signed = (nats) => (nats == null ? 0 : Math.sign(nats) * band(Math.abs(nats)));

export const percent = (logprob) => {
  if (logprob == null) return "–";
  const share = 100 * Math.exp(logprob);
  return share > 0 && share < 0.01 ? "<0.01 %" : `${share.toFixed(2)} %`;
};

/** `tokens`: explained ones; `rest`: text that follows them. `focused` is an index or null. */
export function Tokens({ tokens, rest, colouring, focused, pinned, onFocus, onPin }) {
  const group = useRef();
  const shown = tokens.slice(0, MOST_TOKENS);
  const tail = tokens.slice(MOST_TOKENS).map((token) => token.token).join("") + rest;
  const last = shown.length - 1;
  const onKeyDown = (event) => {
    const index = focused ?? 0;
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    group.current.querySelectorAll("button")[Math.min(last, Math.max(0, next))]?.focus();
  };
  return html`
    <div class="tokens" role="group" aria-label="The answer, token by token" ref=${group} onKeyDown=${onKeyDown}>
      ${shown.map((token, index) => {
        const level = colouring ? colouring.of(token) : 0;
        // No line ends within a button.
        const [, text, lines = ""] = /^([^]*?)(\s*\n\s*)?$/.exec(token.token);
        const label = visible(text + lines.replace(/[^\n]/g, "")).replaceAll("\n", "↵");
        return html`<button
          type="button" class=${`token ${tone(level)}${token.forced ? " forced" : ""}`}
          tabindex=${index === Math.min(focused ?? 0, last) ? 0 : -1} aria-pressed=${index === pinned}
          aria-label=${`${token.token.trim() || JSON.stringify(token.token)}, ${percent(token.logprob)}`}
          onMouseEnter=${() => onFocus(index)} onFocus=${() => onFocus(index)}
          onClick=${() => onPin(index)}
        >${label || "∅"}</button>${lines}`;
      })}${tail && html`<span class="tail">${visible(tail)}</span>`}
    </div>`;
}

const tone = (level) => (level === 0 ? "" : level > 0 ? `more${level}` : `less${-level}`);
