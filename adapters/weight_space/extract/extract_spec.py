"""What an extraction is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from adapters.errors import MergeError
from composer.errors import quoted

PAPER_COUNTS = (2, 32)
"""Singular vectors of the groups but the last where the text gives none: 2 vectors of 8 bits, 32
of 3 bits and the rest of 2 bits is what Delta-CoMe's `run.sh` uses."""

MAX_RANK = 512
"""The largest rank that vLLM serves (`MaxLoRARanks` in vllm/config/lora.py)."""

Dtype = Literal["float32", "bfloat16", "float16"]

_GROUP = re.compile(r"(?P<bits>[1-8])(?:x(?P<count>[1-9][0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class BitGroup:
    """The next `count` singular vectors, by falling singular value, take `bits` bits a number.

    `count` is None in the last group, which takes all the rest.
    """

    bits: int
    count: int | None


def parse_bits(text: str) -> tuple[BitGroup, ...]:
    """`8,3,2` or `8x2,3x32,2` -> groups: bits, and after an `x` how many singular vectors.

    Raises:
        MergeError: the text has another form.
    """
    words = [word.strip() for word in text.split(",")]
    groups = []
    for position, word in enumerate(words):
        last = position == len(words) - 1
        match = _GROUP.fullmatch(word)
        if match is None or (last and match["count"]):
            raise _bits_error(text, f"{quoted(word)} is no number of bits from 1 to 8")
        count = int(match["count"]) if match["count"] else None
        if count is None and not last:
            if position >= len(PAPER_COUNTS):
                raise _bits_error(text, f"group {position + 1} does not say how many vectors")
            count = PAPER_COUNTS[position]
        groups.append(BitGroup(int(match["bits"]), count))
    return tuple(groups)


def format_bits(groups: tuple[BitGroup, ...]) -> str:
    """The inverse of `parse_bits`, with every count written out."""
    return ",".join(f"{g.bits}" if g.count is None else f"{g.bits}x{g.count}" for g in groups)


def rows_of_groups(groups: tuple[BitGroup, ...], rank: int) -> Iterator[tuple[int, int, int]]:
    """(first, end, bits) of every group that has some of `rank` singular vectors."""
    first = 0
    for group in groups:
        end = rank if group.count is None else min(rank, first + group.count)
        if end > first:
            yield first, end, group.bits
        first = end


def _bits_error(text: str, problem: str) -> MergeError:
    return MergeError(
        f"bits {quoted(text)}: {problem}. Write 8,3,2 or, with the number of singular vectors of "
        "every group but the last, 8x2,3x32,2.",
        param="bits",
    )


@dataclass(frozen=True, slots=True)
class ExtractSpec:
    """One of `energy` and `rank` says how much of each module's change is kept.

    energy: the share of the squared singular values, 0 to 1, that each module keeps; its rank is
        the smallest that does, but at most `max_rank`.
    rank: the same rank for every module (less where the change has less).
    bits: groups of bits by singular value; empty: not quantized.
    ignore_other_changes: extract even if tensors changed that an adapter cannot hold.
    dtype: of the adapter's tensors.
    seed: of the randomized search in large modules.
    base_model: the base's name in the adapter's configuration; None: its folder as given.
    """

    energy: float | None = None
    rank: int | None = None
    max_rank: int = MAX_RANK
    bits: tuple[BitGroup, ...] = ()
    ignore_other_changes: bool = False
    dtype: Dtype = "float32"
    seed: int = 0
    base_model: str | None = None

    def __post_init__(self) -> None:
        """Raises `MergeError` where a value is out of range."""
        if (self.energy is None) == (self.rank is None):
            raise MergeError("An extraction takes either energy or rank. Give one of the two.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise MergeError(
                f"energy {self.energy} is no share. Give a number above 0 and at most 1.",
                param="energy",
            )
        for name, value in (("rank", self.rank), ("max_rank", self.max_rank)):
            if value is not None and value < 1:
                raise MergeError(f"{name} {value} is less than 1. Give at least 1.", param=name)

    def to_json(self) -> dict[str, object]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"bits": format_bits(self.bits) or None}

    @classmethod
    def from_json(cls, value: object) -> ExtractSpec:
        """Raises `MergeError`: no object, an unknown field, or a value of a wrong type."""
        if not isinstance(value, Mapping):
            raise MergeError('An extraction is a JSON object, such as {"rank": 16}.')
        arguments: dict[str, Any] = {}
        for name, given in value.items():
            if name not in _FIELDS:
                raise MergeError(
                    f"An extraction has no field {quoted(str(name))}. Use: {', '.join(_FIELDS)}.",
                    param=str(name),
                )
            fits, expected = _FIELDS[name]
            if not fits(given):
                raise MergeError(
                    f"{name} cannot be {quoted(repr(given))}. Use {expected}.", param=name
                )
            arguments[name] = given
        arguments["bits"] = parse_bits(arguments["bits"]) if arguments.get("bits") else ()
        return cls(**arguments)


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, float) or _integer(value)


def _text(value: object) -> bool:
    return value is None or isinstance(value, str)


_DTYPES: tuple[str, ...] = get_args(Dtype)
_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "energy": (lambda v: v is None or _number(v), "a number or null"),
    "rank": (lambda v: v is None or _integer(v), "an integer or null"),
    "max_rank": (_integer, "an integer"),
    "bits": (_text, "a text such as 8x2,3x32,2 or null"),
    "ignore_other_changes": (lambda v: isinstance(v, bool), "true or false"),
    "dtype": (lambda v: v in _DTYPES, "one of " + ", ".join(_DTYPES)),
    "seed": (_integer, "an integer"),
    "base_model": (_text, "a text or null"),
}
"""Field -> whether a JSON value fits, and what would."""
