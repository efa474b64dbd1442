"""The packed form of a quantized adapter: one safetensors file of bytes.

Each factor is one tensor of bytes (`MODULE.lora_A`, `MODULE.lora_B`), laid out by
`Quantized.to_bytes`; the metadata say the rest. vLLM runs plain LoRA, so this form is for keeping
and sending: `unpack` makes an adapter of it again.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from adapters.errors import MergeError
from adapters.weight_space.extract.extract_spec import BitGroup, format_bits, parse_bits
from adapters.weight_space.extract.quantization import Bytes, Quantized, packed_size
from adapters.weight_space.factors import Factors

FORMAT = "composer-packed-adapter-1"


@dataclass(frozen=True, slots=True)
class PackedModule:
    """A and B of one module as bytes; shape is (out, r, in)."""

    shape: tuple[int, int, int]
    a: Bytes
    b: Bytes

    @classmethod
    def pack(cls, a: Quantized, b: Quantized, groups: tuple[BitGroup, ...]) -> PackedModule:
        """a: of the vectors [r, in], b: of the vectors [r, out]."""
        shape = (b.codes.shape[1], *a.codes.shape)
        return cls(shape, a.to_bytes(groups), b.to_bytes(groups))

    def unpack(self, groups: tuple[BitGroup, ...]) -> Factors:
        out, rank, width = self.shape
        a = Quantized.from_bytes(self.a, groups, rank, width).restore(groups)
        b = Quantized.from_bytes(self.b, groups, rank, out).restore(groups)
        return Factors(a, b.T)


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """A whole adapter, with what its unpacked form needs beside the numbers."""

    modules: Mapping[str, PackedModule]
    groups: tuple[BitGroup, ...]
    base_model: str | None
    dtype: str

    def _header(self) -> bytes:
        """Length and JSON, as safetensors defines it; padded so that the data are aligned."""
        shapes = {name: module.shape for name, module in self.modules.items()}
        about = {"base_model": self.base_model, "dtype": self.dtype, "shapes": shapes}
        header: dict[str, object] = {
            "__metadata__": {
                "format": FORMAT,
                "bits": format_bits(self.groups),
                "about": json.dumps(about),
            }
        }
        start = 0
        for name, data in self._parts():
            end = start + len(data)
            header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [start, end]}
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def _parts(self) -> list[tuple[str, Bytes]]:
        return [
            (f"{name}.lora_{part}", data)
            for name, module in sorted(self.modules.items())
            for part, data in (("A", module.a), ("B", module.b))
        ]

    @property
    def payload_bytes(self) -> int:
        """Norms, scales and codes."""
        return sum(len(data) for _, data in self._parts())

    @property
    def size_bytes(self) -> int:
        """Of the file that `write` makes."""
        return len(self._header()) + self.payload_bytes

    @property
    def parameters(self) -> int:
        """Numbers of the adapter that is packed."""
        return sum(r * (out + width) for out, r, width in (m.shape for m in self.modules.values()))

    def write(self, path: Path) -> None:
        """The file appears when it is whole; one that is there is replaced."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            whole = Path(folder, path.name)
            with whole.open("wb") as file:
                file.write(self._header())
                for _, data in self._parts():
                    file.write(data.tobytes())
                file.flush()
                os.fsync(file.fileno())
            whole.replace(path)

    def unpack(self) -> dict[str, Factors]:
        """The adapter's factors, exactly as they were when it was packed."""
        return {name: module.unpack(self.groups) for name, module in self.modules.items()}

    @classmethod
    def read(cls, path: Path) -> PackedAdapter:
        """Raises `MergeError` where the file is not what `write` makes."""
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
                about = json.loads(metadata["about"])
                groups = parse_bits(metadata["bits"])
                modules = {}
                for name, (out, rank, width) in about["shapes"].items():
                    a, b = (np.asarray(file.get_tensor(f"{name}.lora_{part}")) for part in "AB")
                    for data, length in ((a, width), (b, out)):
                        if len(data) != packed_size(groups, rank, length):
                            raise ValueError(f"{name} has {len(data)} bytes, not those it needs")
                    modules[name] = PackedModule((out, rank, width), a, b)
                return cls(modules, groups, about["base_model"], about["dtype"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise MergeError(
                f"'{path}' is no packed adapter: {error}. Give a file written by extract --packed."
            ) from None
