// One slider for each number of a composition.

import { format, isJson, withWeight } from "../lib/formula.js";
import { html, useRef } from "../lib/html.js";

const MOST = 12;

/** `all`: the numbers of the formula. */
export function Weights({ formula, all, onChange }) {
  if (!all.length) return null;
  return html`
    <fieldset class="weights">
      <legend>Weights</legend>
      ${all.slice(0, MOST).map(
        (weight, index) => html`
          <${Weight} key=${index} id=${`weight-${index}`} weight=${weight} isRecipe=${isJson(formula)}
            onChange=${(value) => onChange(withWeight(formula, weight, value))} />`,
      )}
      ${all.length > MOST && html`<p class="help">The first ${MOST}; the text has more.</p>`}
    </fieldset>`;
}

function Weight({ id, weight, isRecipe, onChange }) {
  // The range stays as it is while the slider moves, and fits a number that was typed.
  const [range, turned] = [useRef(), useRef()];
  if (weight.value !== turned.current) range.current = rangeFor(weight, isRecipe);
  const [min, max, step] = range.current;
  const turn = (event) => {
    turned.current = Number(event.target.value);
    onChange(turned.current);
  };
  const type = (event) => {
    const value = Number(event.target.value);
    if (event.target.value !== "" && Number.isFinite(value)) onChange(value);
  };
  return html`
    <div class="weight">
      <label for=${id}><code>${weight.label}</code></label>
      <input id=${id} type="range" min=${min} max=${max} step=${step} value=${weight.value} onInput=${turn} />
      <input type="number" step=${step} value=${format(weight.value)} aria-label=${`Weight of ${weight.label}`}
        onChange=${type} />
    </div>`;
}

/** Return [least, most, step] of the slider for a number. */
function rangeFor({ label, value }, isRecipe) {
  if (isRecipe && (label === "top_k" || (Number.isInteger(value) && value > 4))) return [1, 2 * value, 1]; // a count
  if (isRecipe && value > 0 && value < 1) return [0, 1, 0.01]; // a share
  const size = Math.abs(value) <= 3 ? 3 : Math.ceil(2 * Math.abs(value));
  return [-size, size, 0.05];
}
