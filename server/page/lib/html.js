// Preact with htm: templates without a compile step.

import htm from "../vendor/htm.mjs";
import { h, render } from "../vendor/preact.mjs";

export const html = htm.bind(h);
export { render };
export { useEffect, useErrorBoundary, useRef, useState } from "../vendor/hooks.mjs";
