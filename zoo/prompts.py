"""Prompts that the adapters are for, by which a router chooses among them: `zoo/examples/*.txt`.

`python -m zoo.prompts` writes them. They come from the training split, one prompt a line. The
adapters for manners and for Velan get the same questions as `chat`, so they have none.
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
    """Different prompts of a task, the same at every call."""
    task, rng = tasks()[name], random.Random(f"{name} examples")
    found: dict[str, None] = {}
    while len(found) < count:
        found[task.sample(rng, False).messages[-1]["content"]] = None
    return list(found)


def main() -> None:
    for name, path in EXAMPLES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{prompt}\n" for prompt in prompts(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
