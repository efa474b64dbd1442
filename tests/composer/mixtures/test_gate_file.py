"""Gate files: what is stored is what is read, and what is wrong is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo
from composer.mixtures.gate_file import Gate, GateError, fingerprint, load_gate, save_gate

GATE = Gate(
    ("base", "sort", "count"),
    np.arange(12, dtype=np.float32).reshape(3, 4) / np.float32(7),
    np.array([0.5, -1, 2], np.float32),
    {"base": None, "sort": "5" * 64, "count": "c" * 64},
    "b" * 64,
    {"accuracy": "0.99"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_gate(GATE, tmp_path / "new" / "gate.safetensors")
    return tmp_path / "new" / "gate.safetensors"


def metadata_of(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + size])["__metadata__"])


def test_a_gate_is_read_as_it_was_stored(path: Path) -> None:
    found = load_gate(path)
    assert (found.classes, found.digests, found.base) == (GATE.classes, GATE.digests, GATE.base)
    assert found.metadata == {"accuracy": "0.99"}
    np.testing.assert_array_equal(found.weight, GATE.weight)
    np.testing.assert_array_equal(found.bias, GATE.bias)
    assert found.digest == GATE.digest == metadata_of(path)["digest"]


def test_a_gate_takes_the_place_of_another(path: Path) -> None:
    other = replace(GATE, base="a" * 64)
    save_gate(other, path)
    assert load_gate(path).digest == other.digest
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left"


def test_a_failed_write_keeps_the_file_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_gate(replace(GATE, base="0" * 64), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "other",
    [
        replace(GATE, weight=GATE.weight + np.float32(1e-6)),
        replace(GATE, bias=GATE.bias[::-1].copy()),
        replace(GATE, base="a" * 64),
        replace(GATE, digests={**GATE.digests, "sort": None}),
        replace(
            GATE, classes=("base", "sort", "x"), digests={"base": None, "sort": "5" * 64, "x": ""}
        ),
    ],
)
def test_the_digest_covers(other: Gate) -> None:
    assert other.digest != GATE.digest


def test_logits_are_those_of_the_formula() -> None:
    hidden = np.array([[1, 0, 0, 0], [0, 2, 0, 1]], np.float32)
    expected = [[GATE.weight[k] @ h + GATE.bias[k] for k in range(3)] for h in hidden]
    np.testing.assert_allclose(GATE.logits(hidden), expected, rtol=1e-6)
    assert GATE.hidden_size == 4


def test_rows_of_candidates() -> None:
    assert GATE.rows(["count", "base"]) == (2, 0)
    with pytest.raises(
        GateError, match="has no class 'chat'; its classes are 'base', 'sort', 'count'"
    ):
        GATE.rows(["count", "chat"])


def test_adapters_that_are_gone() -> None:
    served: dict[str, str | None] = {"sort": "5" * 64, "count": "c" * 64, "chat": "d" * 64}
    assert GATE.missing(served) == ()
    assert GATE.missing({**served, "sort": "6" * 64}) == ("sort",)
    assert GATE.missing({}) == ("sort", "count")
    without = replace(GATE, digests={**GATE.digests, "sort": None})
    assert without.missing({**served, "sort": "6" * 64}) == ()


def test_another_base() -> None:
    GATE.check_base("b" * 64, 4)
    with pytest.raises(GateError, match=r"fingerprint bbbbbbbbbbbb, and this one has aaaaaaaaaaaa"):
        GATE.check_base("a" * 64)
    with pytest.raises(GateError, match="hidden size is 4, and the base model has 8"):
        GATE.check_base("b" * 64, 8)


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _as(**changes: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        known = {**metadata_of(path), **changes}
        save_file(load_file(path), path, {k: v for k, v in known.items() if v})

    return change


def _without_bias(path: Path) -> None:
    save_file({"weight": GATE.weight}, path, metadata_of(path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_damaged, "digest"),
        (_truncated, "cannot be read as a gate"),
        (lambda path: path.write_bytes(b""), "cannot be read as a gate"),
        (lambda path: path.unlink(), "no such file"),
        (_as(format="composer-gate-2"), "its format is 'composer-gate-2', not 'composer-gate-1'"),
        (_as(base=""), "its metadata has no 'base'"),
        (_as(classes='["base", "sort"]'), "shapes"),
        (_as(classes='["sort", "sort", "base"]'), "classes are 'sort', 'sort', 'base'"),
        (_as(classes="3"), "not a list of names"),
        (_as(digests="{}"), "digests are those of none"),
        (_without_bias, "no tensor 'bias'"),
    ],
)
def test_files_that_are_refused(path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(path)
    with pytest.raises(GateError) as error:
        load_gate(path)
    assert message in error.value.message
    assert str(path) in error.value.message
    assert "composer router train" in error.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": GATE.weight * np.float32(np.nan)}, "not finite"),
        ({"weight": GATE.weight.astype(np.float64)}, "float64"),
        ({"bias": GATE.bias[:2]}, "shapes"),
        ({"metadata": {"digest": "x"}}, "'digest'"),
        ({"classes": ("base",)}, "two or more"),
    ],
)
def test_gates_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(GateError, match=message):
        replace(GATE, **change)  # type: ignore[arg-type]


def test_the_fingerprint_of_a_base_model(tmp_path: Path) -> None:
    assert fingerprint(zoo.BASE) == fingerprint(zoo.BASE) != fingerprint(zoo.SMALL)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((zoo.BASE / name).read_bytes())
    assert fingerprint(tmp_path) == fingerprint(zoo.BASE), "the tokenizer has no part in it"
    (tmp_path / "config.json").write_text("{}")
    assert fingerprint(tmp_path) != fingerprint(zoo.BASE)
    (tmp_path / "config.json").unlink()
    with pytest.raises(GateError, match=r"has no config\.json with safetensors files"):
        fingerprint(tmp_path)
