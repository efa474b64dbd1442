// Preact with htm: templates without a compile step.

import htm from "../vendor/htm.mjs";
import { Fragment, h, render } from "../vendor/preact.mjs";

export const html = htm.bind(h);
export { Fragment, render };
export {
  useCallback,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../vendor/hooks.mjs";
