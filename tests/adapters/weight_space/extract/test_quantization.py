"""Mixed precision by singular value, and its packed form."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.errors import MergeError
from adapters.weight_space.extract import ExtractSpec, extract, parse_bits, unpack
from adapters.weight_space.extract.packed import PackedAdapter
from adapters.weight_space.extract.quantization import Quantized, packed_size, quantize
from tests.adapters.weight_space.extract.conftest import FineTune
from tests.adapters.weight_space.extract.models import deltas
from tests.adapters.weight_space.merge.samples import distance, products


def vectors(rank: int = 40, length: int = 300) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rank, length, generator=generator) * torch.logspace(0, -6, rank)[:, None]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_every_bit_makes_it_better() -> None:
    given = vectors()
    errors = []
    for bits in range(1, 9):
        groups = parse_bits(str(bits))
        quantized = quantize(given, groups)
        assert int(quantized.codes.max()) == 2**bits - 1
        errors.append(error(quantized.restore(groups), given))
    assert all(b < 0.65 * a for a, b in pairwise(errors))
    # The least possible error of four levels for normal numbers is 0.343 (Max 1960, table I).
    assert 0.33 < errors[1] < 0.36
    assert errors[7] < 0.01


def test_no_vector_is_lost_to_the_range_of_half_floats() -> None:
    """Numbers of 1e-9 and less: each vector has a norm of its own."""
    groups = parse_bits("4")
    given = 1e-9 * vectors()
    restored = quantize(given, groups).restore(groups)
    worst = ((restored - given).norm(dim=1) / given.norm(dim=1)).max()
    assert float(worst) < 0.15


def test_zeros_stay_small() -> None:
    groups = parse_bits("2")
    given = vectors(2, 256)
    given[1] = 0
    given[0, :128] = 0
    restored = quantize(given, groups).restore(groups)
    assert float(restored[1].abs().max()) == 0
    assert float(restored[0, :128].abs().max()) < 1e-5


@pytest.mark.parametrize("text", ["1", "3", "5", "8,3,2"])
@pytest.mark.parametrize("length", [1, 127, 128, 300])
def test_bytes_round_trip(text: str, length: int) -> None:
    groups = parse_bits(text)
    quantized = quantize(vectors(40, length), groups)
    data = quantized.to_bytes(groups)
    assert len(data) == packed_size(groups, 40, length)
    again = Quantized.from_bytes(data, groups, 40, length)
    for name in ("norms", "scales", "codes"):
        assert torch.equal(getattr(again, name), getattr(quantized, name))


def test_size_by_hand() -> None:
    """40 vectors of 300: 2 of 300, 32 of 113 and 6 of 75 bytes, 3 scales and a norm each."""
    assert packed_size(parse_bits("8,3,2"), 40, 300) == 2 * 300 + 32 * 113 + 6 * 75 + 40 * (6 + 4)


def test_more_bits_less_error(tmp_path: Path, zoo_tuned: FineTune) -> None:
    expected = deltas(zoo_tuned.base, zoo_tuned.tuned)
    errors, means = [], []
    for bits in ("2", "8x2,2", "8,3,2", "8x2,4", "8"):
        spec = ExtractSpec(rank=16, bits=parse_bits(bits))
        out = tmp_path / bits
        report = extract(spec, zoo_tuned.base, zoo_tuned.tuned, out)
        assert report.bits_per_parameter is not None
        assert report.error == pytest.approx(distance(products(out), expected), rel=1e-3)
        assert report.error_unquantized < 1e-5
        errors.append(report.error)
        means.append(report.bits_per_parameter)
    assert errors == sorted(errors, reverse=True)
    assert means == sorted(means)
    # 16 vectors: 2 of 8 bits and 14 of 3; a scale per 128 numbers (704 takes 6 of them, not 5.5).
    exact = (2 * 8 + 14 * 3) / 16
    assert exact + 16 / 128 < means[2] < exact + 16 / 128 + 32 / 256 + 0.03


def test_large_singular_values_earn_their_bits(tmp_path: Path, zoo_tuned: FineTune) -> None:
    """The claim of the paper: for about the same size, mixed precision has the smaller error."""
    results = []
    for bits in ("8,3,2", "4"):
        spec = ExtractSpec(rank=16, bits=parse_bits(bits))
        out = tmp_path / bits
        results.append(extract(spec, zoo_tuned.base, zoo_tuned.tuned, out))
    mixed, even = results
    assert mixed.packed_bytes is not None
    assert even.packed_bytes is not None
    assert mixed.packed_bytes < even.packed_bytes
    assert mixed.error < even.error


def test_the_packed_file_is_the_adapter(tmp_path: Path, zoo_tuned: FineTune) -> None:
    file, out = tmp_path / "packed.safetensors", tmp_path / "out"
    spec = ExtractSpec(energy=0.9, bits=parse_bits("8,3,2"), dtype="bfloat16", base_model="a/b")
    report = extract(spec, zoo_tuned.base, zoo_tuned.tuned, out, packed=file)
    assert file.stat().st_size == report.packed_bytes
    assert report.packed_bytes < report.adapter_bytes / 2
    form = unpack(file, tmp_path / "again")
    assert form.parameters == report.parameters
    assert report.bits_per_parameter == pytest.approx(8 * form.payload_bytes / report.parameters)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"packed.safetensors", "out", "again"}


def test_other_files_are_refused(tmp_path: Path, small: FineTune) -> None:
    file = tmp_path / "packed.safetensors"
    spec = ExtractSpec(rank=2, bits=parse_bits("2"))
    extract(spec, small.base, small.tuned, tmp_path / "out", packed=file)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b'bits":"2', b'bits":"3')):
        file.write_bytes(damaged)
        with pytest.raises(MergeError, match="is no packed adapter"):
            PackedAdapter.read(file)
    for path in (tmp_path / "nothing", tmp_path / "out" / "adapter_model.safetensors"):
        with pytest.raises(MergeError, match="is no packed adapter"):
            unpack(path, tmp_path / "again")
