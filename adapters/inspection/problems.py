"""What the inspection of an adapter found: a value that is stored beside it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """One adapter, as its two files say.

    rank: the largest in its configuration, which is what vLLM's `max_lora_rank` must reach.
    scaling: the different factors of B @ A among its modules, ascending; one for most adapters.
    modules: the base model's names, without PEFT's `base_model.model.`, sorted.
    dtypes: of the factors, in the words of safetensors (`BF16`), sorted.
    size_bytes: of both files. parameters: numbers in the factors.
    digest: sha256 over both files, in hex.
    base_model: the model that it was trained on, `name` or `name@revision`, where it says so.
    warnings: what does not keep it from being served, but is worth a look.
    """

    rank: int
    scaling: tuple[float, ...]
    modules: tuple[str, ...]
    dtypes: tuple[str, ...]
    size_bytes: int
    parameters: int
    digest: str
    base_model: str | None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Lists, strings and numbers; `from_json` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Report:
        """Fields of other names are left alone.

        Raises:
            ValueError: a field is missing or of another type; the message names it.
        """
        return cls(
            rank=_read(data, "rank", int),
            scaling=tuple(float(v) for v in _read_list(data, "scaling", (int, float))),
            modules=_read_list(data, "modules", str),
            dtypes=_read_list(data, "dtypes", str),
            size_bytes=_read(data, "size_bytes", int),
            parameters=_read(data, "parameters", int),
            digest=_read(data, "digest", str),
            base_model=_read(data, "base_model", (str, type(None))),
            warnings=_read_list(data, "warnings", str),
        )


def listing(names: Sequence[str]) -> str:
    """The names as messages show them: the first 20, then a count."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _read(data: Mapping[str, object], field: str, kind: Any) -> Any:
    value = data.get(field)
    if field not in data or not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"the field '{field}' of the report is {value!r}")
    return value


def _read_list(data: Mapping[str, object], field: str, kind: Any) -> tuple[Any, ...]:
    values = _read(data, field, list)
    if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
        raise ValueError(f"the field '{field}' of the report is {values!r}")
    return tuple(values)
