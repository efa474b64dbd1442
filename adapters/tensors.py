"""The tensors of a safetensors file, looked at one piece at a time, with numpy alone.

numpy has neither bfloat16 nor 8-bit floats; what is asked of a number can be read from its bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from adapters.files import CHUNK

__all__ = [
    "FORMATS",
    "Format",
    "SafetensorError",
    "Scan",
    "TensorInfo",
    "digest_of",
    "read_infos",
    "scan",
]


@dataclass(frozen=True, slots=True)
class Format:
    """How a float is stored: sign bit, then exponent and fraction, so that the bits without the
    sign grow with the magnitude.

    infinite: the least magnitude, as bits, that is NaN, infinite, or infinite as a float32.
    beyond_half: the least magnitude, as bits, that is infinite as a float16; 0 where none is.
    """

    size_bytes: int
    infinite: int
    beyond_half: int = 0


FORMATS: Mapping[str, Format] = {
    "F64": Format(8, 0x47EF_FFFF_F000_0000, 0x40EF_FE00_0000_0000),
    "F32": Format(4, 0x7F80_0000, 0x477F_F000),
    "F16": Format(2, 0x7C00),
    "BF16": Format(2, 0x7F80, 0x4780),
    "F8_E5M2": Format(1, 0x7C),
    "F8_E4M3": Format(1, 0x7F),  # has no infinity
}
"""The floats that torch converts, and vLLM therefore loads, by their name in safetensors."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. `start` is its first byte, counted from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Scan:
    """What the numbers of one tensor are like."""

    finite: bool
    zero: bool
    beyond_half: bool


def read_infos(path: Path) -> tuple[TensorInfo, ...]:
    """All tensors in the order of the file, from its header.

    Raises:
        SafetensorError: the header cannot be read, or does not fit the file.
        ValueError: a tensor is not of one of `FORMATS`.
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    infos = []
    # safe_open has checked that the tensors lie in the file one after the other, without gaps.
    with safe_open(path, framework="np") as tensors:
        for name in tensors.offset_keys():
            tensor = tensors.get_slice(name)
            dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
            if dtype not in FORMATS:
                raise ValueError(f"{name} is of the type {dtype}")
            infos.append(TensorInfo(name, dtype, shape, start))
            start += math.prod(shape) * FORMATS[dtype].size_bytes
    return tuple(infos)


def scan(file: BinaryIO, info: TensorInfo) -> Scan:
    """Look at every number of a tensor once. Raises EOFError: the file ends before."""
    form = FORMATS[info.dtype]
    magnitude = np.array((1 << (8 * form.size_bytes - 1)) - 1, f"<u{form.size_bytes}")
    left, largest = info.count * form.size_bytes, 0
    file.seek(info.start)
    while left:
        data = file.read(min(CHUNK, left))
        if not data:
            raise EOFError("it ends before its last number")
        bits = np.frombuffer(data, magnitude.dtype)
        largest = max(largest, int((bits & magnitude).max()))
        left -= len(data)
    return Scan(
        finite=largest < form.infinite,
        zero=largest == 0,
        beyond_half=bool(form.beyond_half) and largest >= form.beyond_half,
    )


def digest_of(config: bytes, weights: BinaryIO, size_bytes: int) -> str:
    """The name of an adapter's content: sha256 over both files, each after its length (8 bytes).

    Raises:
        EOFError: the file of weights does not have `size_bytes`.
    """
    digest = hashlib.sha256(len(config).to_bytes(8, "big") + config)
    digest.update(size_bytes.to_bytes(8, "big"))
    weights.seek(0)
    while chunk := weights.read(CHUNK):
        digest.update(chunk)
        size_bytes -= len(chunk)
    if size_bytes:
        raise EOFError("it is being changed")
    return digest.hexdigest()
