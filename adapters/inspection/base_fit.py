"""Whether an adapter fits a base model: modules, shapes, vocabulary, lineage."""

from __future__ import annotations

import json
import re
from pathlib import Path

from adapters.inspection.lora_config import Fail
from adapters.inspection.lora_tensors import Contents
from adapters.inspection.model_shapes import ModelShapes
from adapters.inspection.problems import listing

_OTHER_BASE = "Serve it with the model that it was trained on"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CACHED = re.compile(r"(?:^|/)models--(?P<id>[^/]+)(?:/|$)")
_TOKENIZER_LIMIT = 64 << 20


def check_fit(contents: Contents, base: ModelShapes, fail: Fail, *, transposed: bool) -> None:
    """Check that the base model has every module, in the same shape, and the same vocabulary.

    transposed: the base model stores its weights as [in, out] (PEFT's fan_in_fan_out).
    """
    names = {module: base.find(module.removesuffix(".base_layer")) for module in contents.pairs}
    if unmatched := sorted(module for module, name in names.items() if name is None):
        fail(
            f"it changes {len(unmatched)} of {len(names)} modules that the base model does not "
            f"have; no module {listing(unmatched)}",
            _OTHER_BASE,
        )
    for module, pair in sorted(contents.pairs.items()):
        expected = base.matrices.get(names[module] or "")
        swapped = transposed or pair.embedding
        shape = (pair.a[1], pair.b[0]) if swapped else (pair.b[0], pair.a[1])
        if expected is not None and shape != expected:
            fail(
                f"it changes {module} with the shape {list(shape)}, "
                f"but the base model's has {list(expected)}",
                _OTHER_BASE,
            )
    for info in contents.embeddings:
        module = info.name.removeprefix("base_model.model.").removesuffix(".base_layer.weight")
        expected = base.matrices.get(base.find(module) or "")
        if expected is not None and info.shape != expected:
            fail(
                f"it changes the vocabulary: its {module} has the shape {list(info.shape)}, the "
                f"base model's has {list(expected)}, and vLLM keeps the base model's",
                "Merge it into a model of its own, with the tokenizer that it was trained with",
            )


def warnings(
    folder: Path,
    contents: Contents,
    base: ModelShapes | None,
    base_model: str | None,
) -> list[str]:
    """Return problems that do not prevent serving the adapter."""
    texts = []
    if base is not None and base.name and base_model and not same_model(base_model, base.name):
        texts.append(f"it was trained on {base_model}, but {base.name} is served")
    if contents.embeddings:
        names = sorted(info.name for info in contents.embeddings)
        texts.append(
            f"vLLM keeps the base model's embeddings and leaves out {listing(names)}: "
            "answers differ if these were trained"
        )
    if base is not None and base.vocabulary and (tokens := _tokens_from(folder, base.vocabulary)):
        texts.append(
            f"its tokenizer has tokens beyond the {base.vocabulary} of the base model, whose "
            f"tokenizer is used: {listing(tokens)}"
        )
    return texts


def same_model(one: str, other: str) -> bool:
    """Return whether two names may denote one model: hub ids in full, paths by last component.

    Revisions (`@…`) are compared if both names have one.
    """
    (name, _, revision), (name_2, _, revision_2) = (_plain(n).partition("@") for n in (one, other))
    if revision and revision_2 and revision != revision_2:
        return False
    if not (_HUB_ID.fullmatch(name) and _HUB_ID.fullmatch(name_2)):
        name, name_2 = name.rpartition("/")[2], name_2.rpartition("/")[2]
    return name.casefold() == name_2.casefold()


def _plain(name: str) -> str:
    """Return the hub id of a folder in the hub's cache, and any other name unchanged."""
    name = name.rstrip("/")
    cached = _CACHED.search(name)
    return cached["id"].replace("--", "/", 1) if cached else name


def _tokens_from(folder: Path, vocabulary: int) -> list[str]:
    """Return the tokens with an id of at least `vocabulary` in the tokenizer of the folder."""
    tokens: dict[str, int] = {}
    try:
        if (file := folder / "added_tokens.json").is_file():
            tokens |= json.loads(file.read_bytes())
        file = folder / "tokenizer.json"
        if file.is_file() and file.stat().st_size <= _TOKENIZER_LIMIT:
            added = json.loads(file.read_bytes())["added_tokens"]
            tokens |= {token["content"]: token["id"] for token in added}
        return sorted(token for token, number in tokens.items() if number >= vocabulary)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []  # only this warning reads the tokenizer
