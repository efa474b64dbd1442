"""`composer router train`: read examples, fit a gate, print what it can do, store it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import AutoTokenizer

from composer.gate_training.examples import SHORTEST, read_examples
from composer.gate_training.train import Step, Trained, train_gate
from composer.mixtures.gate_file import GateError, save_gate

if TYPE_CHECKING:
    from collections.abc import Iterator


def train(
    base: Path,
    adapters: Mapping[str, Path],
    digests: Mapping[str, str | None],
    examples: Mapping[str, Path],
    output: Path,
    *,
    most: int,
    longest: int,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train a gate and store it as `output`.

    digests: of the adapters, by name. most: examples of each class. longest: tokens of an example.

    Raises:
        GateError: a file cannot be read, an example or a number is wrong.
        OSError: the gate cannot be written.
    """
    if most < 2 or longest < SHORTEST:
        raise GateError(
            f"{most} examples of up to {longest} tokens are too few. "
            f"Give at least 2 of up to {SHORTEST}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        texts = {
            name: read_examples(path, tokenizer, most, longest) for name, path in examples.items()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise GateError(f"{error}. Give the base model's folder, and files of examples.") from None
    with _bar() as step:
        trained = train_gate(base, adapters, digests, texts, step)
    save_gate(trained.gate, output)
    for name, accuracy in trained.by_class.items():
        say(f"{name}: {accuracy:.1%} of held-out positions right, {len(texts[name])} examples")
    say(f"all: {trained.accuracy:.1%} of {trained.held_out}; learned from {trained.learned}")
    say(f"stored {output}, digest {trained.gate.digest}")
    return trained


@contextmanager
def _bar() -> Iterator[Step]:
    """Shows what is being done; nothing if stderr is no terminal."""
    with tqdm(disable=None, leave=False, file=sys.stderr, dynamic_ncols=True) as bar:

        def step(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_postfix_str(what, refresh=False)
            bar.update(done - bar.n)

        yield step
