"""`python -m composer.reference.probe BASE ADAPTER`: what PEFT predicts after one prompt.

Reads {"prompt": [ids], "tokens": [ids]} and writes the log-probabilities of these tokens as the
next one, in their order, as JSON. A program, so that the model it loads is gone when it ends.
"""

from __future__ import annotations

import json
import sys

from composer.reference.oracle import Oracle


def main() -> None:
    base, adapter = sys.argv[1:]
    asked = json.load(sys.stdin)
    logits = Oracle(base, {"adapter": adapter}).logits("adapter", asked["prompt"])[-1]
    json.dump(logits.log_softmax(-1)[asked["tokens"]].tolist(), sys.stdout)


if __name__ == "__main__":
    main()
