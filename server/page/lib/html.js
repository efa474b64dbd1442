// Preact with htm: templates without a compile step.

import htm from "../vendor/htm.mjs";
import { h, render } from "../vendor/preact.mjs";
import { useEffect } from "../vendor/hooks.mjs";

export const html = htm.bind(h);
export { render };
export { useEffect, useErrorBoundary, useRef, useState } from "../vendor/hooks.mjs";

/** Call `load(signal)` for each API key; what was asked with an earlier one is given up. */
export function useLoad(load, keyed) {
  useEffect(() => {
    const aborter = new AbortController();
    load(aborter.signal);
    return () => aborter.abort();
  }, [keyed]);
}
