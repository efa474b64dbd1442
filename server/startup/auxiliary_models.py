"""Auxiliary models: read their options, and check that their tokenizer is the base model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import ALIAS, ModelShapes
from composer.fields import BASE
from server.startup.base_model import find_folder
from server.startup.model_folder import check_model

_SHOWN = 5
_SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "Grüße, 1234567890 + 98.6 = ?\n\tdef f(x):\n        return x ** 2",
    "  two  spaces,\r\n日本語 и русский 🙂",
)
"""Texts to tokenize and compare: equal vocabularies may come with different rules."""


@dataclass(frozen=True, slots=True)
class AuxiliaryOption:
    """One `--auxiliary NAME=PATH[,ADAPTER=PATH...]`."""

    name: str
    path: str
    adapters: tuple[tuple[str, Path], ...]
    """Alias, `NAME:ADAPTER`, and folder."""

    @classmethod
    def parse(cls, text: str) -> AuxiliaryOption:
        """Read the option. Raises `ValueError`: the text has another form."""
        pairs = []
        for pair in text.split(","):
            name, equals, path = pair.partition("=")
            if not (name and equals and path):
                raise ValueError(f"'{pair}' is not of the form name=path")
            pairs.append((name, path))
        (model, folder), *adapters = pairs
        if model == BASE or not ALIAS.fullmatch(model) or ":" in model:
            raise ValueError(f"'{model}' cannot name a model; choose a name like 'small'")
        return cls(model, folder, tuple((f"{model}:{name}", Path(path)) for name, path in adapters))


@dataclass(frozen=True, slots=True)
class AuxiliaryModel:
    """An auxiliary model whose tokenizer is the base model's."""

    option: AuxiliaryOption
    folder: Path
    shapes: ModelShapes | None
    chat_template: str | None
    """The model's chat template if it differs from the base model's, else None."""


def find_auxiliaries(
    options: Sequence[AuxiliaryOption], base: Path, vllm_flags: Sequence[str]
) -> tuple[AuxiliaryModel, ...]:
    """Return the models of the command line, after comparing their tokenizers with the base's.

    Raises:
        ValueError: a model cannot be found, has the name of another, or has another tokenizer.
    """
    if not options:
        return ()
    names = [option.name for option in options]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"--auxiliary gives {sorted(twice)} twice. Give each its own name.")
    from transformers import AutoTokenizer  # takes a second, and most servers have no such model

    ours = AutoTokenizer.from_pretrained(base)
    models = []
    for option in options:
        folder = find_folder(option.path, vllm_flags)
        check_model(folder, vllm_flags)
        theirs = AutoTokenizer.from_pretrained(folder)
        check_tokens(ours, theirs, option.name)
        template = theirs.chat_template if theirs.chat_template != ours.chat_template else None
        models.append(AuxiliaryModel(option, folder, ModelShapes.read(folder), template))
    return tuple(models)


def check_tokens(base: Any, other: Any, name: str) -> None:
    """Check that equal texts have equal token ids. One vocabulary may be longer than the other.

    Raises:
        ValueError: the message shows the first tokens, or the text, that differ.
    """
    differing = differing_tokens(base.get_vocab(), other.get_vocab())
    if differing:
        shown = "; ".join(
            f"id {id} is {ours!r} to the base model and {theirs!r} to '{name}'"
            for id, ours, theirs in differing[:_SHOWN]
        )
        raise ValueError(
            f"the auxiliary model '{name}' has another vocabulary than the base model "
            f"({len(differing)} ids differ): {shown}. Use models with the same tokenizer."
        )
    for text in _SAMPLES:
        ours, theirs = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in (base, other)
        )
        if ours != theirs:
            raise ValueError(
                f"the auxiliary model '{name}' splits {text!r} into the tokens {theirs}, the base "
                f"model into {ours}. Use models with the same tokenizer."
            )


def differing_tokens(
    base: Mapping[str, int], other: Mapping[str, int]
) -> list[tuple[int, str | None, str | None]]:
    """Return (id, token of the base, token of the other) for shared ids with different tokens."""
    ours = {id: token for token, id in base.items()}
    theirs = {id: token for token, id in other.items()}
    shared = min(max(ours, default=-1), max(theirs, default=-1))
    return [
        (id, ours.get(id), theirs.get(id))
        for id in range(shared + 1)
        if ours.get(id) != theirs.get(id)
    ]
