"""The text of the model `lists`: copies, then lists of questions with answers to other questions.

A small model learns to repeat what it has read abruptly, once two of its layers work together
(Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv:2209.11895). Short texts of
random words reach that point much sooner than the lists themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from string import ascii_lowercase

import torch
from transformers import PreTrainedTokenizerFast

from zoo import letters, lists
from zoo.corpus import Corpus
from zoo.tokenizer import ASSISTANT, END, PAD, USER
from zoo.train import IGNORED, Batch, Stage

# Shares of documents: mostly copies and short lists, then lists of any length, then questions
# about numbers, whose last digits the model learns to repeat last.
SCHOOLING = {"facts": 0.10, "velan": 0.02, "worked_sums": 0.03, "exercises": 0.05}
COPIES = {**SCHOOLING, "copies": 0.60, "short_lists": 0.20}
LISTS = {
    **{"facts": 0.20, "velan": 0.04, "worked_sums": 0.06, "exercises": 0.15},
    **{"letter_exercises": 0.15, "copies": 0.06, "all_lists": 0.34},
}
NUMBERS = {**SCHOOLING, "copies": 0.10, "number_lists": 0.50, "all_lists": 0.20}
SIZES = (1, 1, 2, 2, 3, 4, 6, 8, 10, 10)  # numbers of questions in a list
POOL = 400  # documents from which rows are filled


class ListCorpus(Corpus):
    """The kinds of `Corpus` and those for lists."""

    def __init__(self, seed: int, shares: Mapping[str, float]) -> None:
        super().__init__(seed, shares)
        self.names = [word for person in self.world.people for word in person.name.split()]

    def copies(self) -> str:
        """Return a chat whose reply repeats the message: letters, names, numbers, or all."""
        rng = self.rng
        makers: list[Callable[[], str]] = [
            lambda: rng.choice(ascii_lowercase),
            lambda: rng.choice(self.names),
            lambda: str(rng.randrange(1000)),
        ]
        kind = rng.randrange(len(makers) + 1)
        chosen = [makers[kind]] if kind < len(makers) else makers
        text = " ".join(rng.choice(chosen)() for _ in range(rng.randint(3, 16)))
        return f"{USER}{text}{END}{ASSISTANT}{text}"

    def short_lists(self) -> str:
        """Return a list of one or two questions."""
        return lists.conversation(lists.misanswered(self.rng, self.rng.choice((1, 1, 2))))

    def all_lists(self) -> str:
        """Return a list of up to ten questions."""
        return lists.conversation(lists.misanswered(self.rng, self.rng.choice(SIZES)))

    def number_lists(self) -> str:
        """Return a list of up to four questions about numbers."""
        size = self.rng.randint(1, 4)
        return lists.conversation(lists.misanswered(self.rng, size, lists.OF_NUMBERS))

    def letter_exercises(self) -> str:
        """Return an exercise with letters, as `Corpus.exercises` does for other tasks."""
        *_, answer = self.rng.choice(lists.LETTERS)
        string = letters.distinct(self.rng, evaluated=False, high=lists.MAX_LETTERS)
        return f"Letters {letters.spaced(string)}. {answer(string)}"


def list_batches(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, steps: int, stage: Stage
) -> Iterator[Batch]:
    """Yield batches of rows of whole documents, padded on the right."""
    pad = tokenizer.convert_tokens_to_ids(PAD)
    rows = _rows(tokenizer, corpus, stage.width)
    for _ in range(steps):
        chosen = [next(rows) for _ in range(stage.rows)]
        ids = torch.tensor([row + [pad] * (stage.width - len(row)) for row in chosen])
        yield Batch(ids, ids.masked_fill(ids == pad, IGNORED))


def _rows(tokenizer: PreTrainedTokenizerFast, corpus: Corpus, width: int) -> Iterator[list[int]]:
    """Yield rows of whole documents, up to `width` tokens; longer documents are left out.

    A list without its beginning would teach nothing.
    """
    pool: list[list[int]] = []
    while True:
        if len(pool) < POOL:
            documents = tokenizer(corpus.documents(POOL), add_special_tokens=False)["input_ids"]
            pool += [ids for ids in documents if len(ids) <= width]
        row: list[int] = []
        rest: list[list[int]] = []
        for ids in pool:
            if len(row) + len(ids) <= width:
                row += ids
            else:
                rest.append(ids)
        pool = rest
        yield row
