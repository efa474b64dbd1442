"""Gates: linear classifiers of hidden states that choose the adapter for the next token.

A gate is one safetensors file with tensors `weight` [C, H] and `bias` [C], both float32. Its
metadata contain the names of the C classes, the digest of the adapter that each class was trained
for, the fingerprint of the base model, and a digest of all this. The logits of a hidden state
h [H], the input of the output layer, are `weight @ h + bias`.

MeteoRA (Xu et al. 2024, section 3.2) has such a gate in every layer; a server can read the last
hidden state without changing the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from composer.errors import CompositionError, quoted
from composer.fields import BASE

FORMAT: Final = "composer-gate-1"

_TRAIN_AGAIN: Final = "Train it with: composer router train"
_RESERVED: Final = frozenset({"format", "classes", "digests", "base", "digest"})
_CHUNK: Final = 1 << 20  # bytes

Floats: TypeAlias = NDArray[np.float32]


class GateError(CompositionError):
    """A gate cannot be read, or does not match this base model or these adapters."""

    code = "invalid_gate"


@dataclass(frozen=True)
class Gate:
    """A linear classifier of hidden states with C classes.

    weight [C, H], bias [C], both float32. `digests` has an entry for every class: None for `base`,
    and for an adapter without a digest. `base` is the `fingerprint` of the base model, `metadata`
    further texts, such as the accuracy on held-out examples.

    Raises:
        GateError: the shapes do not match, a number is not finite, or a class has no unique name or
            no digest.
    """

    classes: tuple[str, ...]
    weight: Floats
    bias: Floats
    digests: Mapping[str, str | None]
    base: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.classes)
        if len(set(self.classes)) != count or count < 2:
            _fail(f"its classes are {_names(self.classes)}, not two or more different names")
        if self.weight.ndim != 2 or len(self.weight) != count or self.bias.shape != (count,):
            shapes = f"{self.weight.shape} and {self.bias.shape}"
            _fail(f"its weight and bias have the shapes {shapes}, which is not {count} classes")
        if self.weight.dtype != np.float32 or self.bias.dtype != np.float32:
            _fail(f"its numbers are {self.weight.dtype} and {self.bias.dtype}, not float32")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            _fail("it has a number that is not finite")
        if self.digests.keys() != set(self.classes):
            _fail(f"its digests are those of {_names(tuple(self.digests))}, not of its classes")
        if reserved := _RESERVED & self.metadata.keys():
            _fail(f"its metadata uses the key {quoted(min(reserved))}, which has a meaning")

    @property
    def hidden_size(self) -> int:
        return int(self.weight.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of everything that determines the choices of the gate."""
        header = [FORMAT, list(self.classes), dict(sorted(self.digests.items())), self.base]
        text = json.dumps(header, separators=(",", ":")).encode()
        digest = hashlib.sha256(struct.pack(">Q", len(text)) + text)
        for tensor in (self.weight, self.bias):
            digest.update(np.ascontiguousarray(tensor, "<f4").tobytes())
        return digest.hexdigest()

    def logits(self, hidden: Floats) -> Floats:
        """Return the logits of the classes: hidden `[..., H]` -> `[..., C]` float32."""
        return hidden.astype(np.float32) @ self.weight.T + self.bias

    def rows(self, names: Sequence[str], *, param: str | None = None) -> tuple[int, ...]:
        """Return the row of the matrix for each of the names.

        Raises:
            GateError: one of the names is not a class of the gate.
        """
        if unknown := [name for name in names if name not in self.classes]:
            raise GateError(
                f"the gate has no class {quoted(unknown[0])}; its classes are "
                f"{_names(self.classes)}. Leave it out, or train a gate with it. {_TRAIN_AGAIN}",
                param=param,
            )
        return tuple(map(self.classes.index, names))

    def check_base(self, base: str, hidden_size: int | None = None) -> None:
        """Raise GateError if the gate was trained for another base model than the one with the
        fingerprint `base`, or for another hidden size."""
        if self.base != base:
            _fail(
                f"it was trained for a base model with the fingerprint {self.base[:12]}, and this "
                f"one has {base[:12]}"
            )
        if hidden_size not in (None, self.hidden_size):
            _fail(f"its hidden size is {self.hidden_size}, and the base model has {hidden_size}")

    def missing(self, served: Mapping[str, str | None]) -> tuple[str, ...]:
        """Return the classes whose adapter is missing in `served`, or has another digest there.

        `served`: digest by name. A class without a digest only needs its name; `base` is always
        served.
        """
        return tuple(
            name
            for name, digest in self.digests.items()
            if name != BASE
            and (name not in served or (digest is not None and served[name] != digest))
        )


def save_gate(gate: Gate, path: Path) -> None:
    """Write the file atomically, replacing an existing one.

    Raises:
        OSError: it cannot be written.
    """
    metadata = {
        **gate.metadata,
        "format": FORMAT,
        "classes": json.dumps(gate.classes),
        "digests": json.dumps(dict(gate.digests)),
        "base": gate.base,
        "digest": gate.digest,
    }
    tensors = {"weight": gate.weight, "bias": gate.bias}
    data = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_gate(path: Path | str) -> Gate:
    """Read a gate and verify its digest.

    Raises:
        GateError: the file does not exist, is not a gate, or is damaged; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        _fail("there is no such file", path)
    try:
        gate, digest = _read(path)
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        _fail(f"it cannot be read as a gate: {error}", path)
    except GateError as error:
        raise GateError(error.message.replace("the gate", _called(path), 1)) from None
    if digest != gate.digest:
        _fail("its content has another digest than the one that it was stored with", path)
    return gate


def _read(path: Path) -> tuple[Gate, str | None]:
    with safe_open(path, framework="np") as tensors:
        metadata: dict[str, str] = tensors.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        if lacking := sorted({"classes", "digests", "base", "digest"} - metadata.keys()):
            raise ValueError(f"its metadata has no {lacking[0]!r}")
        if lacking := sorted({"weight", "bias"} - set(tensors.keys())):
            raise ValueError(f"it has no tensor {lacking[0]!r}")
        weight, bias = tensors.get_tensor("weight"), tensors.get_tensor("bias")
    classes, digests = json.loads(metadata["classes"]), json.loads(metadata["digests"])
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("its classes are not a list of names")
    others = {key: value for key, value in metadata.items() if key not in _RESERVED}
    gate = Gate(tuple(classes), weight, bias, dict(digests), metadata["base"], others)
    return gate, metadata["digest"]


def fingerprint(base: Path | str) -> str:
    """Return the SHA-256, in hex, of a base model: its config.json and safetensors files, by name.

    Raises:
        GateError: the folder does not contain such a model.
    """
    folder = Path(base)
    digest = hashlib.sha256()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise GateError(
            f"{quoted(str(folder))} has no config.json with safetensors files beside it. Give the "
            "folder of the base model."
        )
    for path in (folder / "config.json", *weights):
        digest.update(struct.pack(">Q", path.stat().st_size))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names)) or "none"


def _fail(problem: str, path: Path | None = None) -> NoReturn:
    raise GateError(f"{_called(path) if path else 'the gate'}: {problem}. {_TRAIN_AGAIN}.")


def _called(path: Path) -> str:
    return f"gate {quoted(str(path), 300)}"
