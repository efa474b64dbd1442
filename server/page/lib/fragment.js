// The state of the page in the fragment of its address, which browsers do not send to servers.

const NAMES = {
  view: "view",
  mode: "mode",
  formula: "f",
  prompt: "p",
  system: "s",
  temperature: "t",
  maxTokens: "n",
  seed: "seed",
  colour: "c",
};

const FIRST = {
  view: "compose",
  mode: "chat",
  formula: "",
  prompt: "",
  system: "",
  temperature: "0",
  maxTokens: "64",
  seed: "",
  colour: "",
};

// Values that a link may have; others, which the page could not show, are left out.
const NUMBER = /^(-?\d{1,99}(\.\d+)?(e[-+]?\d\d?)?)?$/i;
const VALID = {
  view: /^(compose|sweep|fit|adapters|stored)$/,
  mode: /^(chat|text)$/,
  temperature: NUMBER,
  maxTokens: NUMBER,
  seed: NUMBER,
};

/** Return the state that the address has; everything else as at first. */
export function read() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const state = { ...FIRST };
  for (const [name, short] of Object.entries(NAMES)) {
    const value = fields.get(short);
    if (value !== null && (VALID[name]?.test(value) ?? true)) state[name] = value;
  }
  return state;
}

/** Write the state into the address, without what is as at first. */
export function write(state) {
  const fields = new URLSearchParams();
  for (const [name, short] of Object.entries(NAMES)) {
    if (state[name] !== FIRST[name]) fields.set(short, state[name]);
  }
  history.replaceState(null, "", `${location.pathname}${location.search}#${fields}`);
}
