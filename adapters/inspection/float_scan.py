"""Scan the tensors of a safetensors file one chunk at a time, with numpy alone.

numpy has neither bfloat16 nor 8-bit floats, so the magnitude of a number is read from its bits.
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
    "LARGEST",
    "SafetensorError",
    "TensorInfo",
    "digest_of",
    "largest_magnitude",
    "read_infos",
]


FORMATS: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
}
"""safetensors' name of a float type that vLLM loads -> bytes per number. Every type stores the sign
bit, the exponent, then the fraction, so the bits without the sign, read as an integer, grow with
the magnitude; infinity follows the finite numbers, and NaN follows infinity."""

LARGEST = 65504.0
"""Largest accepted magnitude of a factor's numbers, of a scale, and of their products: the largest
float16.

Trained factors stay below 100, so this leaves three orders of magnitude. It is small enough that
nothing a transformer computes from such an adapter leaves the range of float32 and bfloat16 (1e38):
an entry of `scale * B @ A` is at most rank * LARGEST, about 3e7 at rank 512; normalized activations
of 1e4 numbers become at most 1e13, a product of two projections 1e26, and its down projection 1e37.
A NaN would stay in the KV cache after its request, and reach the requests that use the block next.
"""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. `start` is the offset of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_infos(path: Path) -> tuple[TensorInfo, ...]:
    """Read the header and return all tensors in the order of the file.

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
            start += math.prod(shape) * FORMATS[dtype]
    return tuple(infos)


def largest_magnitude(file: BinaryIO, info: TensorInfo) -> float:
    """Return the largest magnitude in a tensor; infinity or NaN if it contains one.

    Raises:
        EOFError: the file ends before the last number.
    """
    size = FORMATS[info.dtype]
    magnitude = np.array((1 << (8 * size - 1)) - 1, f"<u{size}")
    left, largest = info.count * size, 0
    file.seek(info.start)
    while left:
        data = file.read(min(CHUNK, left))
        if not data:
            raise EOFError("it ends before its last number")
        bits = np.frombuffer(data, magnitude.dtype)
        largest = max(largest, int((bits & magnitude).max()))
        left -= len(data)
    return _value(info.dtype, largest)


def _value(dtype: str, bits: int) -> float:
    """Decode `bits`, a number of one of `FORMATS` without its sign bit."""
    match dtype:
        case "F64":
            return float(np.uint64(bits).view(np.float64))
        case "F32":
            return float(np.uint32(bits).view(np.float32))
        case "F16":
            return float(np.uint16(bits).view(np.float16))
        case "BF16":  # the upper half of a float32
            return float(np.uint32(bits << 16).view(np.float32))
        case "F8_E5M2":  # the upper half of a float16
            return float(np.uint16(bits << 8).view(np.float16))
        case "F8_E4M3":  # no infinity; all ones are NaN
            exponent, fraction = divmod(bits, 8)
            if bits == 0x7F:
                return math.nan
            if exponent == 0:
                return math.ldexp(fraction, -9)
            return math.ldexp(8 + fraction, exponent - 10)
    raise ValueError(f"{dtype} is not one of {', '.join(FORMATS)}")


def digest_of(config: bytes, weights: BinaryIO, size_bytes: int) -> str:
    """Return the digest of an adapter: sha256 over both files, each after its length (8 bytes).

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
