"""`composer router train`: read examples, fit a gate, store it and print its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import AutoTokenizer

from composer.gate_training.examples import MIN_TOKENS, read_examples
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
    max_examples: int,
    max_tokens: int,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train a gate and store it as `output`.

    Args:
        base: folder of the base model.
        adapters: folders by name.
        digests: of the adapters, by name.
        examples: files by the name of an adapter or of the base.
        output: file of the gate.
        step: called with the progress of the training.
        max_examples: of each class.
        max_tokens: of an example.
        say: prints a line.

    Raises:
        GateError: a file cannot be read, or an example or a number is wrong.
        OSError: the gate cannot be written.
    """
    if max_examples < 2 or max_tokens < MIN_TOKENS:
        raise GateError(
            f"{max_examples} examples of up to {max_tokens} tokens are too few. "
            f"Give at least 2 of up to {MIN_TOKENS}."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        texts = {
            name: read_examples(path, tokenizer, max_examples, max_tokens)
            for name, path in examples.items()
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
