"""A full fine-tune that is known exactly: the zoo's base model with an adapter merged into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.adapters.weight_space.extract.models import base_tensors, changed, write_model


@dataclass(frozen=True)
class FineTune:
    """Folders of whole models in float32; `sharded` is `tuned` in several files."""

    base: Path
    tuned: Path
    sharded: Path


@pytest.fixture(scope="session")
def zoo_tuned(
    tmp_path_factory: pytest.TempPathFactory, zoo_base: Path, zoo_adapters: dict[str, Path]
) -> FineTune:
    root = tmp_path_factory.mktemp("tuned")
    found = FineTune(root / "base", root / "tuned", root / "sharded")
    model = AutoModelForCausalLM.from_pretrained(zoo_base, dtype=torch.float32)
    model.save_pretrained(found.base)
    merged = PeftModel.from_pretrained(model, zoo_adapters["polite"]).merge_and_unload()
    merged.save_pretrained(found.tuned)
    merged.save_pretrained(found.sharded, max_shard_size="3MB")
    return found


@pytest.fixture
def small(tmp_path: Path) -> FineTune:
    """A model of a few numbers with a change of rank 5 in every linear weight."""
    before = base_tensors()
    after = changed(before)
    return FineTune(
        write_model(tmp_path / "base", before),
        write_model(tmp_path / "tuned", after),
        write_model(tmp_path / "sharded", after, shards=3),
    )
