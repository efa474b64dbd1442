"""What `inspect` accepts, and that each refusal says which adapter, why, and what to do."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch_file

from adapters import AdapterError, ModelShapes, inspect
from adapters.inspection.inspect import Report
from composer.errors import ComposerError
from tests.support.adapter_files import (
    ATTENTION,
    HIDDEN,
    LAYERS,
    RANK,
    VOCABULARY,
    Array,
    Tensors,
    factors,
    safetensors,
    typed,
    write_adapter,
    write_base,
)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def base(tmp_path: Path) -> ModelShapes:
    shapes = ModelShapes.read(write_base(tmp_path / "base"), name="org/tiny")
    assert shapes is not None
    return shapes


def refused(path: Path, alias: str = "polite", base: ModelShapes | None = None) -> str:
    with pytest.raises(AdapterError) as caught:
        inspect(path, alias, base)
    assert isinstance(caught.value, ComposerError)
    assert f"'{alias}'" in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


def replaced(number: int, value: Array) -> dict[str, Array]:
    """The usual factors, one of them exchanged."""
    tensors = factors()
    tensors[list(tensors)[number]] = value
    return tensors


def test_a_fitting_adapter_is_described(tmp_path: Path, base: ModelShapes) -> None:
    path = write_adapter(
        tmp_path / "polite", base_model_name_or_path="org/tiny", revision="0123abc"
    )
    report = inspect(path, "polite", base)
    files = [path / CONFIG, path / WEIGHTS]
    assert report == Report(
        rank=RANK,
        scaling=(2.0,),
        modules=tuple(ATTENTION.format(layer) for layer in range(LAYERS)),
        dtypes=("F32",),
        size_bytes=sum(file.stat().st_size for file in files),
        parameters=LAYERS * 2 * RANK * HIDDEN,
        digest=report.digest,
        base_model="org/tiny@0123abc",
        warnings=(),
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(struct.pack(">Q", file.stat().st_size) + file.read_bytes())
    assert report.digest == digest.hexdigest()


def test_a_report_survives_json(tmp_path: Path) -> None:
    report = inspect(write_adapter(tmp_path / "a", factors() | {}, unheard_of=1), "polite")
    assert report.warnings
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    for field, wrong in (("rank", "2"), ("rank", True), ("modules", [1]), ("scaling", ["1"])):
        with pytest.raises(ValueError, match=field):
            Report.from_json(report.to_json() | {field: wrong})
    with pytest.raises(ValueError, match="digest"):
        Report.from_json({k: v for k, v in report.to_json().items() if k != "digest"})


def test_the_digest_follows_the_content_alone(tmp_path: Path) -> None:
    one = inspect(write_adapter(tmp_path / "one"), "polite")
    assert inspect(write_adapter(tmp_path / "copy"), "rude").digest == one.digest

    scaled = inspect(write_adapter(tmp_path / "scaled", lora_alpha=8), "polite")
    weights = {name: 2 * tensor for name, tensor in factors().items()}
    trained = inspect(write_adapter(tmp_path / "trained", weights), "polite")
    assert len({one.digest, scaled.digest, trained.digest}) == 3


def two_kinds(rank: int) -> dict[str, Array]:
    """q_proj of the usual rank, k_proj of another."""
    others = {n.replace("q_proj", "k_proj"): t for n, t in factors(rank=rank).items()}
    return factors() | others


def test_patterns_set_rank_and_scale_of_a_module(tmp_path: Path) -> None:
    patterns = {
        "rank_pattern": {r".*\.k_proj": 4},
        "alpha_pattern": {"layers.0.self_attn.k_proj": 16},
    }
    report = inspect(write_adapter(tmp_path / "a", two_kinds(4), **patterns), "polite")
    assert report.rank == 4
    assert report.scaling == (1.0, 2.0, 4.0)
    stable = inspect(
        write_adapter(tmp_path / "b", two_kinds(4), use_rslora=True, **patterns), "polite"
    )
    assert stable.scaling == (2.0, 4 / math.sqrt(2), 8.0)


def test_scales_are_those_of_vllm(tmp_path: Path) -> None:
    from vllm.lora.peft_helper import PEFTHelper

    path = write_adapter(
        tmp_path / "a",
        two_kinds(4),
        rank_pattern={r"^model\.layers\.\d+\.self_attn\.k_proj": 4, "proj": 2},
        alpha_pattern={"k_proj": 3.5, "0.self_attn.q_proj": -1, "self_attn": 7},
        use_rslora=True,
    )
    report = inspect(path, "polite")
    helper = PEFTHelper.from_local_dir(str(path), None)
    expected = {helper.get_rank_and_scaling(module) for module in report.modules}
    assert report.scaling == tuple(sorted(scale for _, scale in expected))
    assert report.rank == max(rank for rank, _ in expected)


def test_what_vllm_does_with_tensors_that_are_no_factors() -> None:
    """The reason for warning of stored embeddings, and for refusing those without a LoRA layer."""
    from vllm.lora.utils import is_base_embedding_weights, parse_fine_tuned_lora_name

    layers = [f"base_model.model.{layer}" for layer in ("model.embed_tokens", "lm_head")]
    for layer in layers:
        assert is_base_embedding_weights(f"{layer}.base_layer.weight")  # left out
        assert not is_base_embedding_weights(f"{layer}.weight")
        with pytest.raises(ValueError, match="unsupported LoRA weight"):
            parse_fine_tuned_lora_name(f"{layer}.weight")
    assert parse_fine_tuned_lora_name(f"{layers[0]}.lora_embedding_A") == (
        "model.embed_tokens",
        True,
    )


def test_every_field_of_peft_is_accounted_for() -> None:
    """Fails when PEFT adds a field: decide whether vLLM follows it."""
    from dataclasses import fields

    from peft import LoraConfig

    from adapters.inspection.lora_config import (
        CONVERTIBLE,
        FOLLOWED,
        TRAINING_ONLY,
        UNSUPPORTED,
    )

    known = FOLLOWED | TRAINING_ONLY | UNSUPPORTED.keys() | CONVERTIBLE.keys()
    assert {field.name for field in fields(LoraConfig)} <= known


def test_the_rank_is_what_the_configuration_says(tmp_path: Path) -> None:
    message = refused(write_adapter(tmp_path / "a", factors(rank=4)))
    assert "self_attn.q_proj has the rank 4, but adapter_config.json says 2" in message


def test_missing_files(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "adapter_config.json is missing" in refused(empty)
    no_weights = write_adapter(tmp_path / "no_weights")
    (no_weights / WEIGHTS).unlink()
    assert "adapter_model.safetensors is missing" in refused(no_weights)


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / WEIGHTS).rename(path / "adapter_model.bin")
    message = refused(path)
    assert "adapter_model.bin" in message
    assert "safe_serialization" in message


def test_damaged_files(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    weights = path / WEIGHTS
    whole = weights.read_bytes()
    name = "base_model.model.x.lora_A.weight"
    lies = [
        {name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}},  # other size
        {name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}},  # a gap before it
        {name: {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 16]}},
        {name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "y": {}},
    ]
    for damaged in (
        b"",
        whole[:-1],
        whole[:100],
        whole + b"\0",
        b"\xff" * 8 + whole[8:],
        *(safetensors(lie, bytes(16)) for lie in lies),
    ):
        weights.write_bytes(damaged)
        assert "cannot be read" in refused(path)
    (path / CONFIG).write_text("{")
    assert "not JSON" in refused(path)
    (path / CONFIG).write_text("[" * 100_000)
    assert "not JSON" in refused(path)
    (path / CONFIG).write_text("[]")
    assert "not a JSON object" in refused(path)
    (path / CONFIG).write_text(json.dumps("x" * (5 << 20)))
    assert "more than 4194304 bytes" in refused(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["x"] * 5000}, "has 5000 entries"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_bias": True}, "have a bias"),
        ({"layer_replication": [[0, 1]]}, "replicates layers"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"init_lora_weights": "pissa"}, "initialization 'pissa'"),
        ({"r": 0}, "rank r is 0"),
        ({"r": None}, "rank r is None"),
        ({"r": "8"}, "rank r is '8'"),
        ({"r": True}, "rank r is True"),
        ({"r": 10**400}, "rank r is 1000"),
        ({"r": 2**16 + 1}, "rank r is 65537"),
        ({"r": -8}, "rank r is -8"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_alpha": 1e308}, "lora_alpha is 1e+308"),
        ({"lora_alpha": -1e39}, "lora_alpha is -1e+39"),
        ({"lora_alpha": float("-inf")}, "lora_alpha is -inf"),
        ({"use_rslora": "no"}, "use_rslora is 'no'"),
        ({"rank_pattern": {"q_proj": 0}}, "invalid numbers: q_proj: 0"),
        ({"rank_pattern": {"q_proj": 10**400}}, "invalid numbers: q_proj: 1000"),
        ({"alpha_pattern": {"q_proj": 1e308}}, "invalid numbers: q_proj: 1e+308"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "invalid numbers: q_proj: nan"),
        ({"alpha_pattern": {"nowhere": float("inf")}}, "invalid numbers: nowhere: inf"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is ['q_proj']"),
        ({"alpha_pattern": {"(": 4}}, "pattern '(' of its alpha_pattern is invalid"),
        ({"alpha_pattern": {"(a+)+": 4}}, "take forever"),
        ({"alpha_pattern": {".*.*.*x": 4}}, "take forever"),
    ],
)
def test_methods_that_vllm_does_not_follow(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    assert expected in refused(write_adapter(tmp_path / "a", **config))


def test_fields_that_vllm_asks_for(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    config = json.loads((path / CONFIG).read_text())
    for field, expected in (("target_modules", "no target_modules"), ("lora_alpha", "is None")):
        (path / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != field}))
        assert expected in refused(path)


def test_fields_nobody_knows_are_named(tmp_path: Path) -> None:
    report = inspect(write_adapter(tmp_path / "a", use_xlora={"a": 1}, later=None), "polite")
    assert [w for w in report.warnings if "use_xlora" in w and "later" not in w]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numbers_that_are_none(tmp_path: Path, bad: float, dtype: type) -> None:
    tensors: Tensors = {name: tensor.astype(dtype) for name, tensor in factors().items()}
    name = list(tensors)[-1]
    tensors[name][-1, -1] = bad
    assert f"{name} holds NaN or infinity" in refused(write_adapter(tmp_path / "a", tensors))


@pytest.mark.parametrize("value", [30.0, 3.3e38, float("inf"), float("nan")])
def test_bfloat16_which_numpy_does_not_know(tmp_path: Path, value: float) -> None:
    path = write_adapter(tmp_path / "a")
    tensors = {n: torch.full(t.shape, value, dtype=torch.bfloat16) for n, t in factors().items()}
    save_torch_file(tensors, path / WEIGHTS)
    if value == 30.0:
        assert inspect(path, "polite").dtypes == ("BF16",)
    else:
        expected = "holds numbers up to 3.3e+38" if math.isfinite(value) else "NaN or infinity"
        assert expected in refused(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_8_bit_float_is_judged_as_torch_judges_it(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write_adapter(tmp_path / "a")
    for bits in range(256):
        values = torch.full((HIDDEN, RANK), bits, dtype=torch.uint8).view(dtype)
        save_torch_file(
            {
                n: (values if "lora_B" in n else values.reshape(RANK, HIDDEN)).clone()
                for n in factors()
            },
            path / WEIGHTS,
        )
        number = float(values[0, 0].float())
        if not math.isfinite(number):
            assert "NaN or infinity" in refused(path)
        elif number == 0:
            assert "changes nothing" in refused(path)
        elif 2 * number**2 > 65504:  # a scale of 2
            assert f"{2 * number**2:.3g}" in refused(path) or f"{2 * abs(number):.3g}" in refused(
                path
            )
        else:
            inspect(path, "polite")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("a", "b", "alpha", "problem"),
    [
        (65504.0, 0.5, RANK, None),
        (1.0, 65504.0, RANK, None),
        (255.0, 256.0, RANK, None),
        (65520.0, 1e-9, RANK, "lora_A.weight holds numbers up to 6.55e+04"),
        (1e-9, -7e4, RANK, "lora_B.weight holds numbers up to 7e+04"),
        (1e-9, 65504.0, -2 * RANK, "the scaled factor B of model.layers.0.self_attn.q_proj"),
        (1e-9, 1.0, 65504 * RANK, "lora_alpha is 131008"),
        (256.0, 256.0, RANK, "the change, scale * B @ A, of model.layers.0.self_attn.q_proj"),
        (32.0, 32.0, 200 * RANK, "reaches 2.05e+05"),
    ],
)
def test_the_size_of_a_change_has_a_bound(
    tmp_path: Path, dtype: type, a: float, b: float, alpha: float, problem: str | None
) -> None:
    tensors: Tensors = {
        name: np.full_like(tensor, a if "lora_A" in name else b, dtype)
        for name, tensor in factors().items()
    }
    path = write_adapter(tmp_path / "a", tensors, lora_alpha=alpha)
    if problem is None:
        inspect(path, "polite")
    else:
        assert problem in refused(path)


def test_a_rank_stabilized_scale_has_the_same_bound(tmp_path: Path) -> None:
    tensors = {name: 100 * tensor for name, tensor in factors().items()}
    inspect(write_adapter(tmp_path / "plain", tensors, lora_alpha=12), "polite")
    path = write_adapter(tmp_path / "stable", tensors, lora_alpha=12, use_rslora=True)
    assert "reaches 8.49e+04" in refused(path)


def test_a_module_of_zeros_does_not_hide_its_scale(tmp_path: Path) -> None:
    """0 times a scale beyond float32 is NaN in the engine."""
    tensors = replaced(1, np.zeros((HIDDEN, RANK), np.float32))
    path = write_adapter(tmp_path / "a", tensors, alpha_pattern={"0.self_attn.q_proj": 1e39})
    assert "1e+39" in refused(path)


@pytest.mark.parametrize("dtype", ["I8", "I64", "BOOL", "F8_E8M0"])
def test_numbers_that_are_no_floats(tmp_path: Path, dtype: str) -> None:
    path = write_adapter(tmp_path / "a")
    kind = np.int64 if dtype == "I64" else np.uint8
    bits = {name: tensor.astype(kind) for name, tensor in factors().items()}
    (path / WEIGHTS).write_bytes(typed(dtype, bits))
    message = refused(path)
    assert f"is of the type {dtype}" in message
    assert "float32" in message


def test_an_adapter_that_changes_nothing(tmp_path: Path) -> None:
    untrained = {n: t * (0 if "lora_B" in n else 1) for n, t in factors().items()}
    assert "changes nothing" in refused(write_adapter(tmp_path / "a", untrained))
    # -0.0 is 0, and which factor is zero may differ by module
    mixed = factors()
    for number, name in enumerate(mixed):
        if number in (0, 3):
            mixed[name] = np.full_like(mixed[name], -0.0)
    assert "changes nothing" in refused(write_adapter(tmp_path / "b", mixed))
    half = replaced(1, np.zeros((HIDDEN, RANK), np.float32))
    inspect(write_adapter(tmp_path / "c", half), "polite")
    last = replaced(1, np.zeros((HIDDEN, RANK), np.float32))
    last[list(last)[3]] = np.zeros((HIDDEN, RANK), np.float32)
    last[list(last)[3]][-1, -1] = 1e-45  # the least float32
    inspect(write_adapter(tmp_path / "d", last), "polite")


def test_tensors_that_are_no_factors(tmp_path: Path) -> None:
    extra = factors() | {"base_model.model.lm_head.weight": np.ones((5, 8), np.float32)}
    message = refused(write_adapter(tmp_path / "a", extra))
    assert "lm_head.weight, which is not a factor of a LoRA layer but a whole lm_head" in message
    assert "holds no tensor" in refused(write_adapter(tmp_path / "b", {}))
    apart = factors(rank=2) | {n: t for n, t in factors(rank=3).items() if "lora_B" in n}
    assert "the ranks 2 and 3" in refused(write_adapter(tmp_path / "d", apart))
    flat = replaced(0, np.ones(RANK, np.float32))
    assert "not two matrices" in refused(write_adapter(tmp_path / "e", flat))


def test_a_factor_without_its_partner(tmp_path: Path) -> None:
    alone = {name: t for name, t in factors(layers=25).items() if "lora_A" in name}
    message = refused(write_adapter(tmp_path / "a", alone))
    assert "one factor without its partner in 25 modules" in message
    assert "layers.0.self_attn.q_proj (only lora_A)" in message
    assert "and 5 more" in message


def test_another_base_model(tmp_path: Path, base: ModelShapes) -> None:
    wide = write_adapter(tmp_path / "wide", factors(hidden=16))
    message = refused(wide, base=base)
    assert "[16, 16]" in message
    assert "[8, 8]" in message
    assert "the model that it was trained on" in message

    deep = write_adapter(tmp_path / "deep", factors(layers=3))
    assert "no module model.layers.2.self_attn.q_proj" in refused(deep, base=base)


def test_all_modules_that_the_base_model_lacks_are_named(tmp_path: Path, base: ModelShapes) -> None:
    other = factors("model.layers.{}.attn.c_attn", layers=2)
    few = refused(write_adapter(tmp_path / "few", factors() | other), base=base)
    assert "2 of 4 modules" in few
    assert "layers.0.attn.c_attn, model.layers.1.attn.c_attn." in few
    many = refused(write_adapter(tmp_path / "many", factors(layers=99)), base=base)
    assert "97 of 99 modules" in many
    assert many.count("self_attn") == 20
    assert "and 77 more" in many


@pytest.mark.parametrize(
    ("trained_on", "served", "warned"),
    [
        ("org/tiny", "org/tiny", False),
        ("Org/Tiny", "org/tiny", False),
        ("other/tiny", "org/tiny", True),
        ("/models/tiny/", "org/tiny", False),
        ("/models/large", "org/tiny", True),
        ("org/tiny", "/hub/models--org--tiny/snapshots/0123abc", False),
        ("org/tiny@one", "org/tiny@two", True),
        ("org/tiny@one", "org/tiny", False),
        (None, "org/tiny", False),
        ("org/tiny", None, False),
    ],
)
def test_lineage(tmp_path: Path, trained_on: str | None, served: str | None, warned: bool) -> None:
    path = write_adapter(tmp_path / "a", base_model_name_or_path=trained_on)
    shapes = ModelShapes.read(write_base(tmp_path / "base"), name=served)
    report = inspect(path, "polite", shapes)
    assert report.base_model == trained_on
    assert bool(report.warnings) == warned
    assert all(str(trained_on) in w and str(served) in w for w in report.warnings)


def embedding(vocabulary: int) -> dict[str, Array]:
    name = "base_model.model.model.embed_tokens"
    return {
        f"{name}.lora_embedding_A": np.ones((RANK, vocabulary), np.float32),
        f"{name}.lora_embedding_B": np.ones((HIDDEN, RANK), np.float32),
    }


def test_embeddings_may_have_a_lora_of_the_same_vocabulary(
    tmp_path: Path, base: ModelShapes
) -> None:
    path = write_adapter(tmp_path / "a", embedding(VOCABULARY))
    assert inspect(path, "polite", base).modules == ("model.embed_tokens",)
    message = refused(write_adapter(tmp_path / "b", embedding(VOCABULARY + 3)), base=base)
    assert "[8, 8]" in message
    assert "[5, 8]" in message


def test_stored_embeddings_are_left_out_by_vllm(tmp_path: Path, base: ModelShapes) -> None:
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    for number, rows in enumerate((VOCABULARY, VOCABULARY + 3)):
        tensors = factors() | {name: np.ones((rows, HIDDEN), np.float32)}
        path = write_adapter(tmp_path / str(number), tensors)
        report = inspect(path, "polite")
        assert [w for w in report.warnings if name in w]
        assert report.parameters == LAYERS * 2 * RANK * HIDDEN
        if rows == VOCABULARY:
            assert inspect(path, "polite", base).warnings == report.warnings
        else:
            assert "changes the vocabulary" in refused(path, base=base)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"<old>": 4, "<new>": VOCABULARY}),
        (
            "tokenizer.json",
            {"added_tokens": [{"id": 4, "content": "<old>"}, {"id": 5, "content": "<new>"}]},
        ),
    ],
)
def test_tokens_that_the_base_model_has_not(
    tmp_path: Path, base: ModelShapes, file: str, content: object
) -> None:
    path = write_adapter(tmp_path / "a")
    (path / file).write_text(json.dumps(content))
    (warning,) = inspect(path, "polite", base).warnings
    assert warning.endswith(": <new>")
    (path / file).write_text("{")
    assert inspect(path, "polite", base).warnings == ()


def test_no_tensor_is_held_as_a_whole(tmp_path: Path) -> None:
    wide = 4 << 20
    path = write_adapter(tmp_path / "a", factors(hidden=wide, layers=1))  # two tensors of 32 MiB
    tracemalloc.start()
    try:
        inspect(path, "polite")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("alias", ["base", "", "1st", "a b", "a/b", "a@b", "x" * 65, "ä"])
def test_names_that_would_be_ambiguous(tmp_path: Path, alias: str) -> None:
    assert "name" in refused(write_adapter(tmp_path / "a"), alias=alias)
