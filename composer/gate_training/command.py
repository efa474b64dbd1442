"""`composer router train`: read examples, fit a gate, print what it can do, store it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import AutoTokenizer

from composer.gate_training.examples import SHORTEST, read_examples
from composer.gate_training.train import Step, Trained, train_gate
from composer.mixtures.gate_file import GateError, save_gate


def train(
    base: Path,
    adapters: Mapping[str, Path],
    digests: Mapping[str, str | None],
    examples: Mapping[str, Path],
    output: Path,
    step: Step,
    *,
    most: int,
    longest: int,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train a gate and store it as `output`.

    digests: of the adapters, by name. step: called with the training's progress. most: examples of
    each class. longest: tokens of an example.

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
    trained = train_gate(base, adapters, digests, texts, step)
    save_gate(trained.gate, output)
    for name, accuracy in trained.by_class.items():
        say(f"{name}: {accuracy:.1%} of held-out positions right, {len(texts[name])} examples")
    say(f"all: {trained.accuracy:.1%} of {trained.held_out}; learned from {trained.learned}")
    say(f"stored {output}, digest {trained.gate.digest}")
    return trained
