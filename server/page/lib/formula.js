// What the page needs to know of a composition's text: its numbers, words, and errors in it. What
// a composition means, the server says.

const WORD =
  /(?<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?<name>[A-Za-z_][A-Za-z0-9_.:]*)|(?<quoted>'(?:[^']|'')*'?)|(?<symbol>[-+*/()])/g;

// A link may have thousands.
const MOST = 64;

export const isJson = (text) => text.trimStart().startsWith("{");

/** Split a formula into words {kind, text, start, end}; other characters are left out. */
export function words(text) {
  return Array.from(text.matchAll(WORD), (match) => {
    const [kind] = Object.entries(match.groups).find(([, value]) => value !== undefined);
    return { kind, text: match[0], start: match.index, end: match.index + match[0].length };
  });
}

/** Return a name as formulas write it. */
export const quoteName = (name) =>
  /^[A-Za-z_][A-Za-z0-9_.:]*$/.test(name) ? name : `'${name.replaceAll("'", "''")}'`;

/** Return the shortest text of a number with at most four decimals. */
export const format = (value) => String(Number(value.toFixed(4)));

/**
 * Return the weights of a composition: {label, value, start, end, suffix}. Writing a number and
 * `suffix` in place of the characters from start to end changes the weight.
 */
export function weights(text) {
  return isJson(text) ? jsonNumbers(text) : formulaNumbers(text);
}

/** Return the text with another value of one of its weights. */
export const withWeight = (text, weight, value) => withValues(text, [[weight, value]]);

/** Return the text with several weights replaced, by numbers or by names. */
export function withValues(text, pairs) {
  const sorted = pairs.slice().sort(([a], [b]) => b.start - a.start);
  for (const [weight, value] of sorted) {
    const shown = typeof value === "number" ? format(value) : value;
    text = text.slice(0, weight.start) + shown + weight.suffix + text.slice(weight.end);
  }
  return text;
}

/** Return how the names of free weights begin, so that none of them names a model. */
export function freeStem(models) {
  let stem = "w";
  while (models.some(({ id }) => id.startsWith(stem))) stem += "_";
  return stem;
}

function jsonNumbers(text) {
  const found = [];
  // Strings are matched too, so that digits in them are no numbers.
  const part = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
  let label = "number";
  for (const match of text.matchAll(part)) {
    if (match[1]) {
      if (match[2]) label = match[1].slice(1, -1);
      continue;
    }
    const [start, end] = [match.index, match.index + match[0].length];
    if (found.length === MOST) break;
    found.push({ label, value: Number(match[0]), start, end, suffix: "" });
  }
  return found;
}

function formulaNumbers(text) {
  const all = words(text);
  const found = [];
  let [depth, terms] = [0, 0];
  for (const [index, word] of all.entries()) {
    if (found.length === MOST) break;
    const before = all[index - 1]?.text;
    const isTerm = depth === 0 && !"+-".includes(word.text) && (index === 0 || "+-".includes(before));
    if (word.text === "(") depth += 1;
    if (word.text === ")") depth -= 1;
    if (isTerm) terms += 1;
    const minus = minusOf(all, index);
    const [sign, start] = minus ? [-1, minus.start] : [1, word.start];
    if (word.kind === "number") {
      const label = all[index + 1]?.text === "*" ? factorAt(text, all, index + 2) : nameBefore(all[index - 2]);
      found.push({ label, value: sign * Number(word.text), start, end: word.end, suffix: "" });
    } else if (isTerm && terms > 1 && !termAt(all, index).some((one) => one.kind === "number")) {
      const label = factorAt(text, all, index);
      found.push({ label, value: sign, start, end: word.start, suffix: "*" });
    }
  }
  return found;
}

/** Return the minus that is the sign of the word at `index`, and not a subtraction; else null. */
function minusOf(all, index) {
  const [before, minus] = [all[index - 2], all[index - 1]];
  return minus?.text === "-" && (!before || "+-*/(".includes(before.text)) ? minus : null;
}

const nameBefore = (word) => (word?.kind === "name" || word?.kind === "quoted" ? word.text : "number");

/** Return the words from `index` to the end of the term, without those in parentheses. */
function termAt(all, index) {
  let depth = 0;
  const term = [];
  for (const word of all.slice(index)) {
    if (word.text === ")") depth -= 1;
    if (depth === 0 && term.length && "+-".includes(word.text)) break;
    if (depth === 0) term.push(word);
    if (word.text === "(") depth += 1;
  }
  return term;
}

/** Return the name or the parentheses that begin at `index`. */
function factorAt(text, all, index) {
  if (all[index]?.text !== "(") return all[index]?.text;
  let depth = 0;
  for (const word of all.slice(index)) {
    if (word.text === "(") depth += 1;
    if (word.text === ")") depth -= 1;
    if (depth === 0) return text.slice(all[index].start, word.end);
  }
  return text.slice(all[index].start);
}

/** Return where an error of the server is: {start, end} in the text, or null. */
export function placeOf(text, error) {
  const position = /\(position (\d+)\)/.exec(error.message);
  if (position) return { start: Number(position[1]), end: Number(position[1]) + 1 };
  const name = /model '([^']+)' is not served/.exec(error.message)?.[1];
  const key = error.param?.split(".").findLast((part) => !/^\d+$/.test(part));
  for (const word of [name, key && `"${key}"`]) {
    const start = word ? text.indexOf(word) : -1;
    if (start >= 0) return { start, end: start + word.length };
  }
  return null;
}

/** Parse a composition; throw an error with the place of what is wrong in its JSON. */
export function parse(text) {
  if (!isJson(text)) return text.trim();
  try {
    return JSON.parse(text);
  } catch (error) {
    const at = Number(/position (\d+)/.exec(error.message)?.[1] ?? text.length);
    throw new Error(`This is not JSON yet: ${error.message.split(" (line")[0]} (position ${at})`);
  }
}

/** Return the fields of a request that ask for a composition. */
export function asked(text) {
  const composition = parse(text);
  return typeof composition === "string" ? { model: composition } : { model: "base", composition };
}
