"""What an auxiliary model may be, and what it costs in memory, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs

from composer.vllm.auxiliary.config import engine_config, kv_cache, model_config
from composer.vllm.auxiliary.memory import free_bytes, memory_beside
from composer.vllm.auxiliary.spec import Auxiliary, from_additional_config, to_additional_config

BLOCK_BYTES = 3 * 2 * 2 * 64 * 4 * 32  # layers, keys and values, heads, head size, float32, tokens


def base_config(model: Path, **options: Any) -> Any:
    fixed: dict[str, Any] = {"dtype": "float32", "block_size": 32, "enforce_eager": True}
    return EngineArgs(
        model=str(model), max_model_len=256, **fixed, **options
    ).create_engine_config()


def changed(model: Path, folder: Path, **values: object) -> Path:
    """A copy of a model with another configuration; without weights, which nobody reads here."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def test_what_travels_in_vllms_own_configuration() -> None:
    models = [Auxiliary("small", "/small", 5, 2, 8, 3), Auxiliary("tiny", "/tiny", 7)]
    config = json.loads(json.dumps(to_additional_config(models)))
    assert from_additional_config(config | {"other": 1}) == tuple(models)
    assert to_additional_config([]) == {}
    with pytest.raises(ValueError, match="different names"):
        from_additional_config(to_additional_config([models[0]] * 2))


def test_the_base_model_keeps_its_configuration(zoo_base: Path, zoo_small: Path) -> None:
    base = base_config(zoo_base, enable_lora=True, max_loras=4)
    own = engine_config(base, Auxiliary("small", str(zoo_small), 20 * BLOCK_BYTES, 2))
    assert (base.lora_config.max_loras, own.lora_config.max_loras) == (4, 2)
    assert base.model_config.model == str(zoo_base)
    assert own.model_config.dtype == base.model_config.dtype
    assert base.cache_config.num_gpu_blocks_override is None
    assert own.cache_config.num_gpu_blocks_override == 20
    assert own.compilation_config is not base.compilation_config
    assert engine_config(base, Auxiliary("s", str(zoo_small), 1 << 30)).lora_config is None


def test_a_cache_for_less_than_a_context_is_refused_with_the_arithmetic(
    zoo_base: Path, zoo_small: Path
) -> None:
    base = base_config(zoo_base)
    enough = Auxiliary("small", str(zoo_small), 9 * BLOCK_BYTES)
    own = model_config(base, enough)
    assert kv_cache(base, enough, own).num_blocks == 9
    short = Auxiliary("small", str(zoo_small), 9 * BLOCK_BYTES - 1)
    message = rf"\(3 layers \* 32768 bytes for 32 tokens\) = 8 blocks, .* {9 * BLOCK_BYTES} bytes"
    with pytest.raises(ValueError, match=message):
        kv_cache(base, short, own)


def test_caches_that_do_not_fit_are_refused_with_the_arithmetic() -> None:
    cpu, auxiliaries = torch.device("cpu"), [Auxiliary("a", "/a", 300), Auxiliary("b", "/b", 500)]
    assert memory_beside(auxiliaries, 1000, explicit=False, device=cpu) == 200
    message = r"300 \(a\) \+ 500 \(b\) = 800 bytes of 800 .*raise --gpu-memory-utilization"
    with pytest.raises(ValueError, match=message):
        memory_beside(auxiliaries, 800, explicit=False, device=cpu)
    free = free_bytes(cpu)
    assert memory_beside(auxiliaries, 1000, explicit=True, device=cpu) == 1000
    message = rf"{2 * free} bytes \(base model\) \+ 300 \(a\) .*= {2 * free + 800} bytes"
    with pytest.raises(ValueError, match=message):
        memory_beside(auxiliaries, 2 * free, explicit=True, device=cpu)


def test_a_soft_cap_on_one_side_is_refused(zoo_base: Path, zoo_small: Path, tmp_path: Path) -> None:
    capped = changed(zoo_small, tmp_path / "capped", final_logit_softcapping=30.0)
    message = "caps its logits at None, the auxiliary model 'small' at 30.0"
    with pytest.raises(ValueError, match=message):
        model_config(base_config(zoo_base), Auxiliary("small", str(capped), 1 << 30))
    both = changed(zoo_base, tmp_path / "base", final_logit_softcapping=30.0)
    model_config(base_config(both), Auxiliary("small", str(capped), 1 << 30))


def test_parallelism_that_splits_the_layers_is_refused(zoo_base: Path, zoo_small: Path) -> None:
    base = base_config(zoo_base)
    base.parallel_config.pipeline_parallel_size = 2
    with pytest.raises(ValueError, match="does not work with --pipeline-parallel-size 2"):
        model_config(base, Auxiliary("small", str(zoo_small), 1 << 30))
