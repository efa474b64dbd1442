"""The command line, and how our defaults meet vLLM's options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from adapters import ModelShapes
from server.auth.keys import Role
from server.engine.processor import Processor
from server.engine.vllm_args import (
    Needs,
    Platform,
    auxiliary_options,
    read_flags,
    set_engine_options,
)
from server.settings import Settings
from server.startup.auxiliary_models import AuxiliaryModel, AuxiliaryOption

CPU = Platform(Processor(frozenset({"avx512f"}), {0: 0}), lora_ranks=(8, 16, 64))
GPU = Platform(None, lora_ranks=(8, 16, 64))
SMALL = ModelShapes(frozenset(), {}, 135_000_000)
LARGE = ModelShapes(frozenset(), {}, 7_000_000_000)


@dataclass(frozen=True)
class Grammars:
    """Of vLLM's configuration of grammars, what we touch."""

    backend: str = "auto"


def vllm_parser() -> argparse.ArgumentParser:
    """The options of vLLM's parser that we touch, with its names and defaults."""
    parser = argparse.ArgumentParser()
    for option in ("--model", "--host", "--dtype", "--scheduler-cls", "--worker-cls"):
        parser.add_argument(option)
    for option in ("--port", "--max-lora-rank", "--max-loras", "--max-cpu-loras"):
        parser.add_argument(option, type=int)
    for option in ("--kv-cache-memory-bytes", "--num-gpu-blocks-override", "--api-server-count"):
        parser.add_argument(option, type=int)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    for option in ("--enforce-eager", "--enable-lora"):
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=False)
    for option in ("--headless", "--grpc"):
        parser.add_argument(option, action="store_true")
    for option in ("--served-model-name", "--lora-modules", "--logits-processors"):
        parser.add_argument(option, nargs="+")
    parser.add_argument("--speculative-config")
    parser.add_argument("--kv-transfer-config")
    parser.add_argument("--enable-batch-sharded-sampling", action=argparse.BooleanOptionalAction)
    parser.add_argument("--prefill-schedule-interval", type=int, default=1)
    parser.add_argument("--structured-outputs-config", type=Grammars, default=Grammars())
    parser.add_argument("--shutdown-timeout", type=int, default=0)
    return parser


def flags(
    *given: str,
    ranks: Mapping[str, int] | None = None,
    publishing: bool = False,
    shapes: ModelShapes | None = SMALL,
    platform: Platform = CPU,
) -> argparse.Namespace:
    settings = Settings.from_arguments(["--model", "m", *given])
    needs = Needs(shapes, ranks or {}, publishing)
    return read_flags(vllm_parser(), settings, needs, platform)


def test_ours_are_read_and_the_rest_is_left_to_vllm() -> None:
    settings = Settings.from_arguments(
        [
            *("--model", "m", "--adapters", "a=x,b=y", "--adapters", "c=z", "--max-members", "4"),
            *("--max-model-len", "512", "--enforce-eager", "--max-compositions-per-key", "7"),
        ]
    )
    assert settings.adapters == (("a", Path("x")), ("b", Path("y")), ("c", Path("z")))
    assert settings.limits.max_members == 4
    assert settings.max_compositions_per_key == 7
    assert settings.vllm_flags == ("--max-model-len", "512", "--enforce-eager")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "m", "--adapters", "polite"],
        ["--model", "m", "--adapters", "polite="],
        ["--model", "m", "--examples", "polite"],
        ["--model", "m", "--router", "=x"],
        ["--model", "m", "--default-router", "{"],
        ["--model", "m", "--default-router", "[]"],
        ["--model", "m", "--default-router", '{"kind": "magic"}'],
        ["--model", "m", "--default-router", '{"kind": "prompt", "temperature": 0}'],
        ["--model", "m", "--default-router", '{"kind": "prompt", "top_k": 0}'],
        ["--model", "m", "--default-router", '{"kind": "prompt", "none": 2}'],
        ["--model", "m", "--default-router", '{"kind": "gate", "none": true}'],
        ["--model", "m", "--default-router", '{"kind": "posterior", "top_k": 1000000}'],
        ["--model", "m", "--max-members", "0"],
        ["--model", "m", "--max-weight", "nan"],
        ["--model", "m", "--gang-patience", "-1"],
        ["--model", "m", "--gang-patience", "inf"],
        ["--model", "m", "--port", "http"],
        ["--model", "m", "--port", "65536"],
        ["--model", "m", "--admin-key-file", "/nowhere"],
        ["--model", "m", "--max-adapter-mib", "0"],
    ],
)
def test_options_without_a_valid_value(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_arguments(arguments)
    assert caught.value.code == 2
    assert "usage: python -m server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--kyes", "f"], "did you mean '--keys'?"),
        (["--adaptors=a=x"], "did you mean '--adapters'?"),
        (["--max_members", "4"], "did you mean '--max-members'?"),
        (["--metrics", "maybe"], "choose from 'key', 'open', 'off'"),
    ],
)
def test_a_misspelt_option_fails_with_a_suggestion(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_arguments(["--model", "m", *arguments])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert reason in message
    assert len(message.splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "router"),
    [
        ('"posterior"', {"kind": "posterior"}),
        ('{"kind": "prompt", "top_k": 3}', {"kind": "prompt", "top_k": 3, "none": True}),
        ('{"kind": "prompt", "none": false}', {"kind": "prompt", "none": False}),
        ('{"kind": "prompt", "none": 0.3}', {"kind": "prompt", "none": 0.3}),
        ('{"kind": "gate", "explain": true}', {"kind": "gate", "explain": True}),
    ],
)
def test_the_router_of_auto(text: str, router: object) -> None:
    settings = Settings.from_arguments(["--model", "m", "--default-router", text])
    assert settings.default_router == router
    given = Settings.from_arguments(["--model", "m", "--router", "a=x,b=y", "--examples", "c=z"])
    assert given.default_router == {"kind": "prompt", "top_k": 1, "none": True}
    assert given.routers == (("a", Path("x")), ("b", Path("y")))
    assert given.examples == (("c", Path("z")),)


def test_room_for_the_adapters_at_hand() -> None:
    args = flags(ranks={"polite": 8, "rude": 12})
    assert (args.enable_lora, args.max_lora_rank) == (True, 16)
    assert (args.max_loras, args.max_cpu_loras) == (2, 2)
    many = flags(ranks={f"a{n}": 8 for n in range(20)})
    assert (many.max_loras, many.max_cpu_loras) == (8, 20)
    thousand = flags(ranks={f"a{n}": 8 for n in range(1000)})
    assert (thousand.max_loras, thousand.max_cpu_loras) == (8, 64)
    assert not flags().enable_lora
    with pytest.raises(ValueError, match="rank 65"):
        flags(ranks={"polite": 65})


def test_room_for_adapters_to_come() -> None:
    none_yet = flags(publishing=True)
    assert (none_yet.enable_lora, none_yet.max_lora_rank) == (True, 16)
    assert (none_yet.max_loras, none_yet.max_cpu_loras) == (8, 8)
    some = flags(publishing=True, ranks={f"a{n}": 64 for n in range(20)})
    assert (some.max_lora_rank, some.max_loras, some.max_cpu_loras) == (64, 8, 28)


def test_what_the_operator_chose_stays() -> None:
    args = flags(
        *("--max-loras", "1", "--max-lora-rank", "64", "--dtype", "auto", "--no-enforce-eager"),
        *("--kv-cache-memory-bytes", "77"),
        ranks={"polite": 8, "rude": 8},
    )
    assert (args.max_loras, args.max_lora_rank) == (1, 64)
    assert (args.dtype, args.enforce_eager) == ("auto", False)
    assert args.kv_cache_memory_bytes == 77
    assert flags("--gpu-memory-utilization", "0.5").kv_cache_memory_bytes is None


def test_defaults_for_small_models_on_a_cpu() -> None:
    small, large = flags(), flags(shapes=LARGE)
    fast = Platform(Processor(frozenset({"avx512_bf16"}), {0: 0}), lora_ranks=(8, 16, 64))
    assert (flags(platform=fast).dtype, flags(platform=fast).enforce_eager) == ("bfloat16", True)
    assert (small.dtype, small.enforce_eager) == ("float32", True)
    assert (large.dtype, large.enforce_eager) == (None, False)
    assert 2**28 <= small.kv_cache_memory_bytes <= 2**30
    no_compiler = replace(CPU, compiles=False)
    assert flags(shapes=LARGE, platform=no_compiler).enforce_eager
    assert not flags("--no-enforce-eager", shapes=LARGE, platform=no_compiler).enforce_eager
    assert small.kv_cache_memory_bytes <= large.kv_cache_memory_bytes <= 2**32
    gpu = flags(platform=GPU)
    assert (gpu.dtype, gpu.enforce_eager, gpu.kv_cache_memory_bytes) == (None, False, None)
    assert not flags(platform=replace(GPU, compiles=False)).enforce_eager


def test_one_back_end_for_grammars() -> None:
    assert flags().structured_outputs_config.backend == "xgrammar"
    chosen = flags("--structured-outputs-config", "guidance")
    assert chosen.structured_outputs_config.backend == "guidance"


def test_names_of_the_base() -> None:
    assert flags().served_model_name == ["base", "m"]
    assert flags("--served-model-name", "llama").served_model_name == ["llama", "base"]
    with pytest.raises(ValueError, match="polite"):
        flags("--served-model-name", "polite", ranks={"polite": 8})


@pytest.mark.parametrize(
    "given",
    [
        ("--lora-modules", "a=x"),
        ("--speculative-config", "{}"),
        ("--kv-transfer-config", "{}"),
        ("--enable-batch-sharded-sampling",),
        ("--prefill-schedule-interval", "2"),
        ("--api-server-count", "2"),
        ("--headless",),
        ("--grpc",),
        ("--shutdown-timeout", "5"),
    ],
)
def test_flags_that_cannot_be_had(given: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"{given[0]} cannot be given"):
        flags(*given)


def test_the_classes_of_composition_cannot_be_replaced() -> None:
    options = {"scheduler_cls": "ours", "logits_processors": ["ours"]}
    args = flags()
    set_engine_options(args, vllm_parser(), options)
    assert args.scheduler_cls == "ours"
    with pytest.raises(ValueError, match="--scheduler-cls cannot be given"):
        set_engine_options(flags("--scheduler-cls", "theirs"), vllm_parser(), options)


def test_the_key_of_administrators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def admin(secret: str, *words: str) -> bool:
        keys = Settings.from_arguments(["--model", "m", *words]).keys
        headers = [(b"authorization", f"Bearer {secret}".encode())]
        return keys.identify({"type": "http", "headers": headers}).may(Role.ADMIN)

    monkeypatch.delenv("COMPOSER_ADMIN_KEY", raising=False)
    assert not Settings.from_arguments(["--model", "m"]).keys.publishes
    monkeypatch.setenv("COMPOSER_ADMIN_KEY", "")
    assert not Settings.from_arguments(["--model", "m"]).keys.publishes
    monkeypatch.setenv("COMPOSER_ADMIN_KEY", "from the environment")
    assert admin("from the environment")
    assert not admin("of somebody else")
    file = tmp_path / "key"
    file.write_text("from the file, longer\n")
    arguments = ["--model", "m", "--admin-key-file", str(file)]
    assert admin("from the file, longer", *arguments[2:])
    assert not admin("from the environment", *arguments[2:])
    file.write_text("short\n")
    with pytest.raises(SystemExit):
        Settings.from_arguments(arguments)
    said = capsys.readouterr().err
    assert "5 characters" in said
    assert "short\n" not in said


def test_where_adapters_may_come_from() -> None:
    words = ["--adapter-root", "r", "--adapter-source", "hf://org/", "--adapter-source", "s3://b/"]
    rules = Settings.from_arguments(["--model", "m", "--max-adapter-mib", "3", *words]).sources
    assert (rules.root, rules.remote) == (Path("r"), ("hf://org/", "s3://b/"))
    assert rules.max_bytes == 3 * 2**20


def test_auxiliary_models() -> None:
    words = ["--auxiliary", "small=/s,chat=/c,rude=/r", "--auxiliary", "tiny=org/tiny"]
    small, tiny = Settings.from_arguments(["--model", "m", *words]).auxiliaries
    assert (small.name, small.path) == ("small", "/s")
    assert small.adapters == (("small:chat", Path("/c")), ("small:rude", Path("/r")))
    assert (tiny.name, tiny.path, tiny.adapters) == ("tiny", "org/tiny", ())


@pytest.mark.parametrize("given", ["small", "=x", "base=/x", "a b=/x", "a:b=/x", "small=/s,chat"])
def test_auxiliary_models_that_cannot_be(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Settings.from_arguments(["--model", "m", "--auxiliary", given])
    assert "name" in capsys.readouterr().err


def test_room_for_auxiliary_models() -> None:
    given = AuxiliaryOption.parse("small=/s,chat=/c")
    one = AuxiliaryModel(given, Path("/s"), None, None)
    settings = Settings.from_arguments(["--model", "m"])
    ranks = {"polite": 64, "small:chat": 8}
    [small] = auxiliary_options(settings, Needs(SMALL, ranks, False, (one,)), CPU)
    assert (small.name, small.path, small.kv_memory_bytes) == ("small", "/s", 256 << 20)
    assert (small.max_loras, small.max_lora_rank) == (1, 8)
    assert flags(ranks=ranks).max_loras == 1
    [large] = auxiliary_options(settings, Needs(LARGE, {}, True, (one,)), GPU)
    assert (large.kv_memory_bytes, large.max_loras) == (4096 << 20, 8)
