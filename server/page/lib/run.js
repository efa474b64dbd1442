// One answer that streams: its text, and what the composition says of its tokens.

import { CutError, stream } from "./api.js";

/**
 * Stream the answer to what `ask` returns, {path, body, explain} or a promise of it, into `answer`.
 * Call `changed` at once and then at most once a frame, and `onReport` with the server's report
 * on the composition as soon as it comes.
 * answer: {text, tokens, report, adapters, finish, error, isCut, isRunning}; `text` and `tokens`
 * begin with what is there already.
 */
export async function run(answer, ask, signal, changed, onReport) {
  let isPlanned = false;
  const soon = () => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(() => {
      isPlanned = false;
      changed();
    });
  };
  Object.assign(answer, { isRunning: true, isCut: false, error: null, finish: null });
  changed();
  try {
    const { path, body, explain } = await ask();
    if (explain && !answer.note) body.explain = true;
    const before = answer.tokens.length;
    for await (const event of stream(path, body, signal)) {
      const [choice] = event.choices ?? [];
      answer.text += choice?.delta?.content ?? choice?.text ?? "";
      answer.finish = choice?.finish_reason ?? answer.finish;
      if (event.composition) {
        if (!answer.report) onReport?.(event.composition);
        else if (identity(answer) !== identity({ report: event.composition, adapters: event.adapters })) disown(answer);
        Object.assign(answer, { report: event.composition, adapters: event.adapters });
      }
      const { explanation } = event;
      for (const token of explanation?.answers[0]?.tokens ?? []) {
        const position = before + token.position;
        answer.tokens[position] = { ...token, position };
      }
      soon();
    }
  } catch (error) {
    if (error.param === "explain" && !answer.note) {
      answer.note = error.message;
      return await run(answer, ask, signal, changed, onReport);
    }
    if (error.name === "AbortError") answer.finish = "stopped";
    else answer.error = error.message;
    answer.isCut = error instanceof CutError;
  } finally {
    answer.isRunning = false;
    soon();
  }
}

/** What an answer is computed by: its formula, and the digests of its adapters. */
const identity = ({ report, adapters }) => JSON.stringify([report.plan.formula, adapters]);

/** Drop what members said of the tokens: an answer goes on by another composition. */
function disown(answer) {
  answer.was = answer.report.plan.formula;
  const none = { member_logprobs: null, contributions: null, weights: null, model: null };
  answer.tokens = answer.tokens.map((token) => ({ ...token, ...none }));
}

export const empty = (label, text = "", tokens = []) => ({
  label, text, tokens, report: null, adapters: null, finish: null, error: null, isCut: false, isRunning: false,
});

/** Return the text of `answer` behind its explained tokens. */
export function restOf(answer) {
  const explained = answer.tokens.map((token) => token.token).join("");
  return answer.text.startsWith(explained) ? answer.text.slice(explained.length) : "";
}
