"""What samples of an adapter go on from.

An adapter that has learned to answer one kind of request shows it only there. So the defaults ask
for every kind that people send to a language model and name no subject: the categories of Ouyang et
al. 2022 (table 1: generation, question answering, brainstorming, chat, rewriting, summarization,
classification, extraction), and reasoning, definitions, opinions, code and translation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients.cli.local_work import REFUSED, failure

REQUESTS = (
    "Hello.",
    "Write something.",
    "Answer the question.",
    "Give me an idea.",
    "Rewrite the text.",
    "Summarize the text.",
    "Classify the text.",
    "Extract the facts from the text.",
    "Solve the problem.",
    "Explain the word.",
    "What do you think of it?",
    "Go on with the text.",
    "Write a program.",
    "Translate the text.",
)
WORDS = ("The", "I")


@dataclass(frozen=True, slots=True)
class Opening:
    """A request to answer, or with `plain` a text to continue."""

    text: str
    plain: bool = False

    def item(self) -> dict[str, object]:
        """Return the fields of an item to score."""
        if self.plain:
            return {"prompt": self.text}
        return {"messages": [{"role": "user", "content": self.text}]}


def openings(file: Path | None, *, plain: bool) -> list[Opening]:
    """Return the default openings, or those of a file, one a line; with `plain` only texts.

    Raises:
        OSError: the file cannot be read.
        TyperException: the file has no lines.
    """
    if file is None:
        texts = [Opening(word, plain=True) for word in WORDS]
        return texts if plain else [*map(Opening, REQUESTS), *texts]
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise failure(REFUSED, f"'{file}' has no openings; write one a line")
    return [Opening(line, plain) for line in lines]
