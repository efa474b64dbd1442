"""Read the pairs of factors in an adapter's file of weights, and check them against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from adapters.files import CONFIG, WEIGHTS
from adapters.inspection.float_scan import (
    LARGEST,
    SafetensorError,
    TensorInfo,
    largest_magnitude,
    read_infos,
)
from adapters.inspection.lora_config import CONVERT, COPY_AGAIN, RETRAIN, Fail, Scaling
from adapters.inspection.problems import listing

_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_"
    r"(?:(?P<part>[AB])\.weight|embedding_(?P<embedded>[AB]))"
)
_EMBEDDINGS = re.compile(
    r"(?:.+\.)?(?P<layer>embed_tokens|lm_head)(?P<wrapped>\.base_layer)?\.weight"
)
_EXPERTS = (".experts", ".experts.base_layer")


@dataclass(slots=True)
class FactorPair:
    """The shapes of one module's factors: A [rank, in] and B [out, rank].

    Of an embedding: A [rank, vocabulary] and B [hidden, rank]. `letters` names the factors in the
    order of the file, "AB" for a complete pair; `largest_a` and `largest_b` are their largest
    magnitudes.
    """

    a: tuple[int, ...] = ()
    b: tuple[int, ...] = ()
    letters: str = ""
    largest_a: float = 0.0
    largest_b: float = 0.0
    embedding: bool = False


@dataclass(slots=True)
class Contents:
    """Pairs by module; `embeddings` are copies of the base model's, which vLLM ignores."""

    pairs: dict[str, FactorPair] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)
    parameters: int = 0
    embeddings: list[TensorInfo] = field(default_factory=list)


def read_contents(path: Path, file: BinaryIO, fail: Fail) -> Contents:
    """Read the open `file` at `path`; every number is read once."""
    try:
        infos = read_infos(path)
    except SafetensorError as error:
        fail(f"{WEIGHTS} cannot be read: {error}", COPY_AGAIN)
    except ValueError as error:
        fail(
            f"in {WEIGHTS}, {error}, which is not a float that vLLM loads",
            "Save it as float32, float16 or bfloat16",
        )
    contents = Contents()
    for info in infos:
        if match := _KEY.fullmatch(info.name):
            pair = contents.pairs.setdefault(match["module"], FactorPair())
            _take_factor(contents, pair, info, match["part"] or match["embedded"], file, fail)
            pair.embedding |= match["embedded"] is not None
        else:
            _take_embeddings(contents, info, fail)
    if not contents.pairs:
        fail(f"{WEIGHTS} holds no tensor of a LoRA layer", "Give a trained adapter")
    return contents


def check_pairs(pairs: Mapping[str, FactorPair], scaling: Scaling, fail: Fail) -> None:
    """Check that factors fit each other and the configuration, and that some module changes."""
    if alone := [m for m, pair in sorted(pairs.items()) if len(pair.letters) != 2]:
        names = [f"{m} (only lora_{pairs[m].letters})" for m in alone]
        fail(
            f"one factor without its partner in {len(alone)} modules: {listing(names)}", COPY_AGAIN
        )
    for module, pair in sorted(pairs.items()):
        if len(pair.a) != 2 or len(pair.b) != 2:
            fail(
                f"{module} has factors of the shapes {list(pair.a)} and {list(pair.b)}, "
                "not two matrices",
                RETRAIN,
            )
        if pair.a[0] != pair.b[1] or pair.a[0] < 1:
            fail(
                f"the factors of {module} have the ranks {pair.a[0]} and {pair.b[1]}",
                "Give an adapter whose factors fit each other",
            )
        rank, scale = scaling.of(module)
        # Fused experts hold the factors of all experts in one matrix.
        fused = module.endswith(_EXPERTS) and pair.a[0] % rank == 0
        if pair.a[0] != rank and not fused:
            fail(
                f"{module} has the rank {pair.a[0]}, but {CONFIG} says {rank}",
                "Give the configuration that the adapter was saved with",
            )
        _check_size(module, pair, scale, fail)
    if all(pair.largest_a == 0 or pair.largest_b == 0 for pair in pairs.values()):
        fail("it changes nothing: A or B of each module is zero", "Give a trained adapter")


def _check_size(module: str, pair: FactorPair, scale: float, fail: Fail) -> None:
    """Check the range of the scale, of scale * B, and of each product that B @ A sums up."""
    scaled_b = abs(scale) * pair.largest_b
    for what, value in (
        ("scale", abs(scale)),
        ("scaled factor B", scaled_b),
        ("change, scale * B @ A,", scaled_b * pair.largest_a),
    ):
        if not value <= LARGEST:
            fail(
                f"the {what} of {module} reaches {value:.3g}, more than {LARGEST:g}, the "
                "largest number of half precision; training never produces that",
                "Give the lora_alpha and the factors that it was trained with",
            )


def _take_factor(
    contents: Contents, pair: FactorPair, info: TensorInfo, letter: str, file: BinaryIO, fail: Fail
) -> None:
    largest = largest_magnitude(file, info)
    if not math.isfinite(largest):
        fail(f"{info.name} holds NaN or infinity", "Train it again with a smaller step")
    if largest > LARGEST:
        fail(
            f"{info.name} holds numbers up to {largest:.3g}, more than {LARGEST:g}, the "
            "largest number of half precision; training never produces that",
            "Train it again with a smaller step",
        )
    contents.dtypes.add(info.dtype)
    contents.parameters += info.count
    pair.letters += letter
    if letter == "A":
        pair.a, pair.largest_a = info.shape, largest
    else:
        pair.b, pair.largest_b = info.shape, largest


def _take_embeddings(contents: Contents, info: TensorInfo, fail: Fail) -> None:
    """Accept embeddings with a LoRA layer, which vLLM ignores; refuse others, at which it stops.

    See `is_base_embedding_weights` and `parse_fine_tuned_lora_name` in its `lora/utils.py`.
    """
    match = _EMBEDDINGS.fullmatch(info.name)
    if match is None or not match["wrapped"]:
        whole = "" if match is None else f" but a whole {match['layer']} {list(info.shape)}"
        fail(f"{WEIGHTS} holds {info.name}, which is not a factor of a LoRA layer{whole}", CONVERT)
    contents.embeddings.append(info)
