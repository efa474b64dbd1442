"""Read the weights of a whole model from disk by blocks of rows. Imports torch.

The files are read, not mapped: pages of a mapped file count as memory of the process, so that
walking through a mapped model would end with all of it resident.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adapters.errors import MergeError

INDEX = "model.safetensors.index.json"
BLOCK = 2**18
"""Numbers per read: one MiB of float32."""

_REMEDY = "Give the folder of a whole model, saved with save_pretrained"

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of the types of unquantized models."""


@dataclass(frozen=True, slots=True)
class WeightInfo:
    """The place of a tensor: `size` bytes from offset `start` of `file`."""

    file: Path
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Return the length of the first dimension; 1 for a tensor without dimensions."""
        return self.shape[0] if self.shape else 1


class ModelWeights:
    """The tensors of the model in a folder, in one file or several shards."""

    def __init__(self, folder: Path) -> None:
        """Read the headers only. `tensors` is sorted by name.

        Raises:
            MergeError: the folder does not hold a readable, unquantized model.
        """
        self.folder = folder
        if not folder.is_dir():
            raise MergeError(f"there is no folder '{folder}'. {_REMEDY}.")
        infos: dict[str, WeightInfo] = {}
        for file in _files(folder):
            for name, info in _header(file).items():
                if name in infos:
                    raise MergeError(
                        f"'{folder}' holds {name} twice, in {infos[name].file.name} and "
                        f"{file.name}. Remove the files that do not belong to the model."
                    )
                infos[name] = info
        self.tensors: Mapping[str, WeightInfo] = dict(sorted(infos.items()))

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row number and the rows [n, ...] of each block, in the stored dtype."""
        info = self.tensors[name]
        # Counted in numbers, not bytes, so that the blocks of models of different types agree.
        step = max(1, BLOCK // max(1, math.prod(info.shape[1:])))
        row_bytes = info.size // max(1, info.rows)
        with info.file.open("rb", buffering=0) as stream:
            stream.seek(info.start)
            for row in range(0, info.rows, step):
                rows = min(step, info.rows - row)
                data = bytearray(rows * row_bytes)
                _fill(data, stream, info.file)
                flat = torch.frombuffer(data, dtype=info.dtype) if data else torch.empty(0)
                yield row, flat.view(rows, *info.shape[1:])

    def config(self) -> Mapping[str, Any]:
        """Return the model's config.json; empty if the file does not exist."""
        path = self.folder / "config.json"
        try:
            value = json.loads(path.read_bytes()) if path.is_file() else {}
        except ValueError as error:
            raise MergeError(f"'{path}' is not JSON: {error}. Copy or save it again.") from None
        return value if isinstance(value, dict) else {}


def _fill(data: bytearray, stream: Any, file: Path) -> None:
    """Read until `data` is full: one system call returns at most two GiB."""
    view = memoryview(data)
    while view:
        count = stream.readinto(view)
        if not count:
            raise MergeError(f"'{file}' shrank while it was read. Copy it again.")
        view = view[count:]


def _files(folder: Path) -> list[Path]:
    """Return the shards of the index if there is one; other files may be copies of the weights."""
    if (folder / INDEX).is_file():
        return [folder / name for name in _shards(folder)]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / "adapter_config.json").is_file():
        raise MergeError(f"'{folder}' holds an adapter, not a model. {_REMEDY}.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MergeError(f"'{folder}' holds no .safetensors file. {_REMEDY}.")
    return files


def _shards(folder: Path) -> list[str]:
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MergeError(f"'{index}' has no readable weight_map. Download it again.") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise MergeError(f"'{index}' names the file {name!r}. Shards lie beside the index.")
        if not (folder / name).is_file():
            raise MergeError(f"'{folder}' lacks {name}, which its index names. Download it again.")
    return names


def _header(file: Path) -> dict[str, WeightInfo]:
    """Return the tensors in the header, which safetensors has checked before."""
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise MergeError(f"'{file}' cannot be read: {error}. Copy or download it again.") from None
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    infos = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise MergeError(
                f"{name} in '{file}' has the type {entry['dtype']}, of a quantized model. "
                "Give the model as it was before quantization."
            )
        begin, end = entry["data_offsets"]
        infos[name] = WeightInfo(
            file, 8 + length + begin, end - begin, dtype, tuple(entry["shape"])
        )
    return infos
