"""The report of an inspection, which is stored beside the adapter as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What the two files of an adapter contain.

    rank: the largest in the configuration; vLLM's `max_lora_rank` must be at least that.
    scaling: the distinct scales of B @ A over all modules, ascending; one for most adapters.
    modules: the base model's names, without PEFT's `base_model.model.`, sorted.
    dtypes: of the factors, in safetensors' notation (`BF16`), sorted.
    size_bytes: of both files. parameters: number of entries of all factors.
    digest: sha256 over both files, in hex.
    base_model: the model that the adapter was trained on, `name` or `name@revision`; None if the
        configuration does not name it.
    warnings: problems that do not prevent serving.
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
        """Return the JSON object that `from_json` reads."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Report:
        """Read a JSON object; unknown fields are ignored.

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
    """Return the names as messages show them: the first 20, then a count."""
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
