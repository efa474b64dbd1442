"""`python -m composer.reference.probe BASE ADAPTER`: what PEFT predicts after one prompt.

Read {"prompt": [ids], "tokens": [ids]} from stdin and write, as JSON, the log-probability of each
of `tokens` as the next token. A program of its own, so that its model leaves memory when it ends.
"""

from __future__ import annotations

import json
import sys

from composer.reference.oracle import Oracle


def main() -> None:
    base, adapter = sys.argv[1:]
    request = json.load(sys.stdin)
    logits = Oracle(base, {"adapter": adapter}).logits("adapter", request["prompt"])[-1]
    json.dump(logits.log_softmax(-1)[request["tokens"]].tolist(), sys.stdout)


if __name__ == "__main__":
    main()
