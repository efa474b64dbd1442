"""Adapters of every kind against their conversion: both under PEFT, with the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from peft import LoraConfig, PeftConfig

from adapters.errors import AdapterError
from adapters.inspection.inspect import inspect
from adapters.weight_space.convert.conversion import convert
from adapters.weight_space.convert.convert_spec import ConvertJob
from adapters.weight_space.patch import read_shapes
from tests.support.peft_adapters import BASE, base_model, logits, train, under_peft

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TARGETS = ["q_proj", "down_proj"]
ROUNDING = 5e-5
"""Largest difference of logits up to 20 that float32 explains; the adapters change them by more
than 100 times as much."""


def lora(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": TARGETS} | fields)


def of(kind: str, **fields: Any) -> Callable[[], PeftConfig]:
    config = getattr(peft, f"{kind}Config")
    return lambda: config(**{"target_modules": TARGETS} | fields)


KINDS: dict[str, tuple[Callable[[], PeftConfig], int]] = {
    "plain": (lora, 4),
    "rslora, patterns": (
        lambda: lora(use_rslora=True, rank_pattern={"q_proj": 7}, alpha_pattern={"down_proj": 3}),
        7,
    ),
    "one layer by a pattern": (lambda: lora(target_modules=r".*\.1\..*(q_proj|down_proj)"), 4),
    "no biases to train": (lambda: lora(bias="all"), 4),
    "tokens": (lambda: lora(trainable_token_indices=[5, 23]), 4),
    "tokens alone": (of("TrainableTokens", target_modules=["embed_tokens"], token_indices=[5]), 1),
    "embedding": (lambda: lora(target_modules=["q_proj", "embed_tokens"]), 4),
    "pissa": (lambda: lora(init_lora_weights="pissa"), 8),
    "olora": (lambda: lora(init_lora_weights="olora"), 8),
    "loha": (of("LoHa", r=3), 9),
    "lokr": (of("LoKr", r=2, decompose_factor=8), 16),
    "vera": (of("Vera", r=16, target_modules=["q_proj", "k_proj"]), 16),
    "vera without projections": (
        of("Vera", r=16, target_modules=["q_proj", "k_proj"], save_projection=False),
        16,
    ),
    "adalora": (of("AdaLora", total_step=10, init_r=6), 6),
    "hra": (of("HRA", r=4), 4),
    "miss": (of("Miss", r=4), 4),
    "vblora": (of("VBLoRA", r=4, num_vectors=16, vector_length=32), 4),
    # Exact only because the whole rank of these small matrices is less than vLLM's limit.
    "dora": (lambda: lora(use_dora=True), 256),
    "dora of an embedding": (lambda: lora(use_dora=True, target_modules=["embed_tokens"]), 256),
    "ia3": (of("IA3", feedforward_modules=["down_proj"]), 256),
    "oft": (of("OFT", oft_block_size=16), 256),
    "output layer": (lambda: lora(modules_to_save=["lm_head"]), 256),
    "input embedding": (lambda: lora(modules_to_save=["embed_tokens"]), 256),
}
"""Name -> the configuration, and the largest rank of the conversion."""

USUAL = ("rslora, patterns", "tokens", "pissa", "loha", "lokr", "dora", "output layer")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in USUAL else pytest.mark.long) for k in KINDS]
)
def test_the_converted_adapter_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    make, rank = KINDS[kind]
    trained = train(make(), tmp_path / "trained")
    assert float((under_peft(tmp_path / "trained") - trained).abs().max()) <= ROUNDING
    report = convert(ConvertJob(adapter=tmp_path / "trained", base=BASE), tmp_path / "out")
    assert report.exact
    assert report.rank == rank
    change = float((trained - logits(base_model())).abs().max())
    assert change > 100 * ROUNDING
    assert float((under_peft(tmp_path / "out") - trained).abs().max()) <= ROUNDING
    inspect(tmp_path / "out", "converted", read_shapes(BASE))
    if kind not in ("plain", "rslora, patterns", "one layer by a pattern", "embedding"):
        with pytest.raises(AdapterError, match="composer adapters inspect"):
            inspect(tmp_path / "trained", "own", read_shapes(BASE))


@pytest.mark.parametrize(
    "init",
    ["pissa_niter_4", *(pytest.param(init, marks=pytest.mark.long) for init in ("pissa", "olora"))],
)
def test_an_untrained_adapter_tells_what_was_taken_from_the_base(init: str, tmp_path: Path) -> None:
    """As PEFT's `path_initial_model_for_weight_conversion`."""
    folder, initial = tmp_path / "trained", tmp_path / "initial"
    trained = train(lora(init_lora_weights=init), folder, initial=initial)
    job = ConvertJob(adapter=folder, base=BASE, initial=initial)
    assert convert(job, tmp_path / "out").exact
    assert float((under_peft(tmp_path / "out") - trained).abs().max()) <= ROUNDING
