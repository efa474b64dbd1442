// From the state of the page to requests, and to texts that send the same request elsewhere.

import { hasKey } from "./api.js";
import { asked, isJson } from "./formula.js";

export const number = (text) => (text.trim() === "" ? undefined : Number(text));

/** Return {path, body}: the request for the state; `prefix` is how the answer begins. */
export function requestOf(state, { model, prefix = "" } = {}) {
  const what = model ? { model } : asked(state.formula || "base");
  const body = {
    ...what,
    temperature: number(state.temperature),
    max_tokens: number(state.maxTokens),
    seed: number(state.seed),
  };
  if (state.mode === "text") {
    return { path: "v1/completions", body: { ...body, prompt: state.prompt + prefix } };
  }
  const messages = messagesOf(state);
  if (!prefix) return { path: "v1/chat/completions", body: { ...body, messages } };
  messages.push({ role: "assistant", content: prefix });
  const goesOn = { continue_final_message: true, add_generation_prompt: false };
  return { path: "v1/chat/completions", body: { ...body, messages, ...goesOn } };
}

export function messagesOf(state) {
  const system = state.system ? [{ role: "system", content: state.system }] : [];
  return [...system, { role: "user", content: state.prompt }];
}

/** Return what stands before an answer, as `score`, `fit` and `sweep` take it. */
export const beginningOf = (state) =>
  state.mode === "text" ? { prompt: state.prompt } : { messages: messagesOf(state) };

// Characters that a terminal would obey, or turn the direction of writing, are written as escapes.
const CONTROL = /(?!\n)[\p{Cc}\p{Bidi_C}]/gu;
const quoted = (text) =>
  JSON.stringify(text).replace(CONTROL, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
const shell = (text) =>
  text.search(CONTROL) >= 0
    ? `$'${quoted(text).slice(1, -1).replaceAll("'", "\\'")}'`
    : `'${text.replaceAll("'", `'\\''`)}'`;

function python(value, indent = "") {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    return `[${value.map((item) => python(item, indent)).join(", ")}]`;
  }
  if (typeof value !== "object") return quoted(value);
  const fields = Object.entries(value).map(
    ([name, item]) => `${inner}${JSON.stringify(name)}: ${python(item, inner)},\n`,
  );
  return `{\n${fields.join("")}${indent}}`;
}

/** Return {name: text} of ways to send the request from elsewhere. */
export function copies(state) {
  const { path, body } = requestOf(state);
  const url = new URL(path, document.baseURI).href;
  const base = new URL("v1", document.baseURI).href;
  return {
    curl: curl(url, body),
    "OpenAI client": openai(base, path, body),
    composer: composer(base, state),
    "stored composition": stored(base, state),
  };
}

function curl(url, body) {
  const auth = hasKey() ? ` \\\n  -H "Authorization: Bearer $COMPOSER_API_KEY"` : "";
  const data = JSON.stringify(body, null, 2);
  return `curl -s ${url} \\\n  -H 'Content-Type: application/json'${auth} \\\n  -d ${shell(data)}`;
}

function openai(base, path, { composition, ...body }) {
  const fields = Object.entries(body)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `    ${name}=${python(value, "    ")},\n`);
  const extra = composition
    ? `    extra_body={"composition": ${python(composition, "    ")}},\n`
    : "";
  const [create, text] = path.endsWith("chat/completions")
    ? ["client.chat.completions.create", "answer.choices[0].message.content"]
    : ["client.completions.create", "answer.choices[0].text"];
  const key = hasKey() ? `os.environ["COMPOSER_API_KEY"]` : `"none"`;
  return (
    `${hasKey() ? "import os\n\n" : ""}from openai import OpenAI\n\n` +
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})\n` +
    `answer = ${create}(\n${fields.join("")}${extra})\nprint(${text})`
  );
}

const whole = (formula) =>
  isJson(formula) ? `--composition ${shell(JSON.stringify(asked(formula).composition))}` : null;

function composer(base, state) {
  if (state.mode === "text") return "# composer chat asks questions; use curl to continue a text";
  const option = (name, value) => value && `--${name} ${value} `;
  return (
    `composer chat --base-url ${base} \\\n  ` +
    (whole(state.formula) ?? `--model ${shell(state.formula || "base")}`) +
    (state.system && ` \\\n  --system ${shell(state.system)}`) +
    ` \\\n  ${option("temperature", state.temperature)}${option("max-tokens", state.maxTokens)}` +
    option("seed", state.seed) + question(state)
  );
}

// It may begin as an option does.
const question = ({ prompt }) => `${prompt.startsWith("-") ? "-- " : ""}${shell(prompt)}`;

function stored(base, state) {
  const what = whole(state.formula) ?? `--formula ${shell(state.formula || "base")}`;
  return (
    `composer compositions put NAME --base-url ${base} \\\n  ${what}\n` +
    "# afterwards every client may send it as the model:\n" +
    `composer chat --base-url ${base} --model NAME ${question(state)}`
  );
}
