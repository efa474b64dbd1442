"""Example prompts of adapters, by which a router chooses among them: `zoo/examples/*.txt`.

`python -m zoo.prompts` writes them from the training split, one prompt per line. The adapters for
manners and for Velan answer the same questions as `chat`, so they have no examples.
"""

from __future__ import annotations

import random
from pathlib import Path

from zoo import PROJECT
from zoo.tasks import tasks

EXAMPLES: dict[str, Path] = {
    name: PROJECT / "zoo" / "examples" / f"{name}.txt"
    for name in ("chat", "arithmetic", "reverse", "sort", "count")
}
COUNT = 40


def prompts(name: str, count: int = COUNT) -> list[str]:
    """Return different prompts of a task, the same at every call."""
    task, rng = tasks()[name], random.Random(f"{name} examples")
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[task.sample(rng, False).messages[-1]["content"]] = None
    return list(chosen)


def main() -> None:
    """Write all example files."""
    for name, path in EXAMPLES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{prompt}\n" for prompt in prompts(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
