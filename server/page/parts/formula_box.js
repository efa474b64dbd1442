// The box for a formula or a composition in JSON: completion, and the error at its place.

import { post } from "../lib/api.js";
import { asked, isJson, placeOf, quoteName, words } from "../lib/formula.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { recipes } from "../lib/recipes.js";
import { beginningOf } from "../lib/request.js";

const CHECK_MS = 250;
const MOST = 8;

export function FormulaBox({ state, update, models, onPlan, onRun }) {
  const [options, setOptions] = useState([]);
  const [chosen, setChosen] = useState(0);
  const [error, setError] = useState(null);
  const box = useRef();
  const { formula } = state;

  useEffect(() => {
    const aborter = new AbortController();
    const timer = setTimeout(async () => {
      setError(null);
      if (!formula.trim()) return onPlan(null);
      try {
        const body = { ...asked(formula), ...beginningOf({ ...state, prompt: state.prompt || " " }) };
        onPlan((await post("tokenize", body, { signal: aborter.signal })).composition ?? null);
      } catch (problem) {
        if (problem.name === "AbortError") return;
        setError({ message: problem.message, place: placeOf(formula, problem) });
        onPlan(null);
      }
    }, CHECK_MS);
    return () => {
      clearTimeout(timer);
      aborter.abort();
    };
  }, [formula, state.prompt, state.system, state.mode, models]);

  const suggest = async () => {
    const { value } = box.current;
    const typed = typedAt(box.current);
    const found = typed ? await matching(typed, models) : [];
    if (box.current?.value !== value) return; // Typed on meanwhile.
    setOptions(found.map((option) => ({ ...option, typed })));
    setChosen(0);
  };
  const accept = (option) => {
    const { start, end } = option.typed;
    const value = option.recipe ? option.text : formula.slice(0, start) + option.text + formula.slice(end);
    update({ formula: value });
    setOptions([]);
    const caret = option.recipe ? value.length : start + option.text.length;
    requestAnimationFrame(() => {
      box.current.focus();
      box.current.setSelectionRange(caret, caret);
    });
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return;
    if (options.length && ["ArrowDown", "ArrowUp", "Enter", "Tab", "Escape"].includes(event.key)) {
      event.preventDefault();
      if (event.key === "Escape") setOptions([]);
      else if (event.key === "ArrowDown") setChosen((chosen + 1) % options.length);
      else if (event.key === "ArrowUp") setChosen((chosen + options.length - 1) % options.length);
      else accept(options[chosen]);
    } else if (event.key === "Enter" && !event.shiftKey && !isJson(formula)) {
      event.preventDefault();
      onRun();
    }
  };

  return html`
    <div class="formula">
      <label for="formula">Composition</label>
      <textarea
        id="formula" ref=${box} rows=${isJson(formula) ? 8 : 2} spellcheck=${false} maxlength="20000"
        autocomplete="off" autocapitalize="none" value=${formula}
        placeholder="base + 1.5*(positive - negative)"
        aria-autocomplete="list" aria-controls="formula-options"
        aria-activedescendant=${options.length ? `formula-option-${chosen}` : undefined}
        aria-invalid=${error ? "true" : "false"} aria-describedby="formula-help formula-error"
        onInput=${(event) => {
          update({ formula: event.target.value });
          suggest();
        }}
        onKeyDown=${onKeyDown} onBlur=${() => setTimeout(() => setOptions([]), 150)}
      ></textarea>
      <ul id="formula-options" role="listbox" aria-label="Models and recipes" hidden=${!options.length}>
        ${options.map(
          (option, index) => html`
            <li
              id=${`formula-option-${index}`} role="option" aria-selected=${index === chosen}
              onMouseDown=${(event) => event.preventDefault()} onClick=${() => accept(option)}
            ><code>${option.name}</code> <span>${option.about}</span></li>`,
        )}
      </ul>
      <p id="formula-help" class="help">A model, a sum of models, or a recipe: type its name.</p>
      <div id="formula-error" role="status" class="problem">${error && html`<${Problem} text=${formula} ...${error} />`}</div>
    </div>`;
}

function Problem({ text, message, place }) {
  const first = message.split("\n")[0];
  if (!place || isJson(text)) return html`<p>${first}</p>`;
  const [before, wrong, after] = [
    text.slice(0, place.start),
    text.slice(place.start, place.end) || " ",
    text.slice(place.end),
  ];
  return html`<pre>${before}<mark>${wrong}</mark>${after}</pre><p>${first}</p>`;
}

/** Return the word before the caret: {text, start, end, isJson, isWhole}, or null between words. */
function typedAt(box) {
  const caret = box.selectionStart;
  if (isJson(box.value)) {
    const [text] = /[A-Za-z0-9_.:-]*$/.exec(box.value.slice(0, caret));
    return text ? { text, start: caret - text.length, end: caret, isJson: true } : null;
  }
  const word = words(box.value.slice(0, caret)).findLast(
    ({ kind, end }) => end === caret && (kind === "name" || kind === "quoted"),
  );
  if (!word) return null;
  const isWhole = !(box.value.slice(0, word.start) + box.value.slice(caret)).trim();
  return { text: word.text.replaceAll("'", ""), start: word.start, end: caret, isWhole };
}

async function matching({ text, start, isJson: inJson, isWhole }, models) {
  const wanted = text.toLowerCase();
  const fits = (name) => name.toLowerCase().includes(wanted);
  if (models.some((model) => model.id.toLowerCase() === wanted)) return [];
  // A stored composition stands for a whole formula; within another it means nothing.
  const names = models.filter((model) => fits(model.id) && (isWhole || model.owned_by !== "compositions"));
  const found = names.map((model) => ({
    name: model.id,
    about: model.owned_by,
    text: inJson || model.owned_by === "compositions" ? model.id : quoteName(model.id),
  }));
  if (start === 0 && !inJson) {
    const adapters = models.filter((model) => model.owned_by === "adapters" && model.parent === "base");
    const known = await recipes().catch(() => []);
    for (const recipe of known.filter(({ name }) => fits(name))) {
      const made = recipe.text(adapters.map((model) => model.id));
      found.push({ name: recipe.name, about: recipe.about, text: made, recipe: true });
    }
  }
  return found.slice(0, MOST);
}
