"""What is not converted, and why; and conversions with an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file

from adapters.errors import AdapterError, MergeError
from adapters.weight_space.convert import conversion
from adapters.weight_space.convert.conversion import convert
from adapters.weight_space.convert.convert_spec import ConvertJob
from adapters.weight_space.convert.module_changes import changes_of
from composer.errors import ComposerError
from tests.support.peft_adapters import BASE, base_model, logits, train, under_peft

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def lora(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": ["q_proj"]} | fields)


def refused(tmp_path: Path, base: Path = BASE, **fields: Any) -> str:
    with pytest.raises(ComposerError) as caught:
        convert(ConvertJob(adapter=tmp_path / "a", base=base, **fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return caught.value.message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lora(modules_to_save=["norm"]), "LoRA cannot hold: .*model.norm.weight. Merge it into"),
        (LNTuningConfig(target_modules=["norm"]), "cannot hold: model.norm.weight. Merge it into"),
        (PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "adds to the prompt"),
        (lora(lora_bias=True), "the base layer has no bias. Train a plain LoRA adapter"),
        (lora(alora_invocation_tokens=[5], task_type="CAUSAL_LM"), "an activated LoRA adapter"),
        (lora(init_lora_weights="pissa_niter_4"), "before training with --initial"),
        (lora(init_lora_weights="pissa", use_dora=True), "combines the initialization 'pissa'"),
    ],
)  # fmt: skip
def test_kinds_that_no_lora_equals(config: PeftConfig, message: str, tmp_path: Path) -> None:
    train(config, tmp_path / "a")
    with pytest.raises(AdapterError, match=message):
        convert(ConvertJob(adapter=tmp_path / "a", base=BASE), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantized_base_is_not_the_base_less_a_product(tmp_path: Path) -> None:
    train(lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"init_lora_weights": "loftq"}))
    assert "its initialization 'loftq' changed the base" in refused(tmp_path)
    assert "is not converted" in refused(tmp_path, initial=tmp_path / "a")


def test_an_error_has_to_be_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(lora(use_dora=True), tmp_path / "a")
    monkeypatch.setattr(conversion, "MAX_RANK", 64)  # as in a model of usual size
    message = refused(tmp_path)
    assert "4 of 4 modules has a rank above 64" in message
    assert "--rank N or --energy SHARE" in message
    assert "Merge it into a model of its own" in message
    plain = logits(base_model())
    errors = []
    for rank in (8, 128):
        job = ConvertJob(adapter=tmp_path / "a", base=BASE, rank=rank)
        report = convert(job, tmp_path / f"rank-{rank}")
        assert not report.exact
        assert report.rank == rank
        error = float((under_peft(tmp_path / f"rank-{rank}") - trained).abs().max())
        assert error < float((trained - plain).abs().max())
        assert "it is not exact" in report.warnings[0]
        errors.append(error)
    assert errors[1] < errors[0]


def test_the_factors_of_another_base_or_run(tmp_path: Path) -> None:
    train(lora(), tmp_path / "a")
    assert "does not fit the base model" in refused(tmp_path, BASE.parent / "small")
    assert "holds an adapter, not a model" in refused(tmp_path, tmp_path / "a")
    train(lora(target_modules=["k_proj"]), tmp_path / "initial")
    assert "the same modules" in refused(tmp_path, initial=tmp_path / "initial")


def test_tokens_that_the_base_lacks(tmp_path: Path) -> None:
    train(lora(modules_to_save=["embed_tokens"]), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    [name] = [name for name in tensors if "embed_tokens" in name]
    tensors[name] = torch.cat([tensors[name], torch.zeros(2, tensors[name].shape[1])])
    save_file(tensors, file)
    message = refused(tmp_path)
    assert "or has tokens that it lacks" in message
    assert "If it added tokens: Merge it into a model of its own" in message


def test_a_file_that_is_not_the_configuration_s(tmp_path: Path) -> None:
    train(lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    whole = dict(tensors)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, file)
    assert "disagree: missing base_model.model.model.layers.0." in refused(tmp_path)
    save_file(whole | {"base_model.model.other.lora_A.weight": torch.zeros(4, 256)}, file)
    assert "unknown" in refused(tmp_path)
    file.unlink()
    assert "adapter_model.safetensors is missing" in refused(tmp_path)


def test_an_adapter_that_changes_nothing(tmp_path: Path) -> None:
    train(IA3Config(target_modules=["k_proj"], feedforward_modules=[]), tmp_path / "a", step=0)
    assert "it changes nothing. Give a trained adapter" in refused(tmp_path)


def test_embeddings_that_were_only_stored_are_left_out(tmp_path: Path) -> None:
    """PEFT stores the base's embeddings where they may have been resized."""
    trained = train(lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    name = "base_model.model.model.embed_tokens.weight"
    weight = base_model().get_input_embeddings().weight.detach()
    save_file(load_file(file) | {name: weight.clone()}, file)
    convert(ConvertJob(adapter=tmp_path / "a", base=BASE), tmp_path / "out")
    assert float((under_peft(tmp_path / "out") - trained).abs().max()) == 0
    save_file(load_file(file) | {name: weight + 1e-3}, file)
    shutil.rmtree(tmp_path / "out")
    assert "LoRA cannot hold: model.embed_tokens.weight" in refused(tmp_path)


def test_the_answers_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that is not what the forward pass does would be noticed."""
    train(lora(), tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"lora_alpha": 16}))

    def half(adapter: Any) -> Any:
        for number, change in enumerate(changes_of(adapter)):
            if number % 2:
                yield change

    monkeypatch.setattr(conversion, "changes_of", half)
    with pytest.raises(MergeError, match="the converted adapter answers otherwise"):
        convert(ConvertJob(adapter=tmp_path / "a", base=BASE), tmp_path / "out")
