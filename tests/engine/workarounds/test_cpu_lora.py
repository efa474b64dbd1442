"""The LoRA kernels for CPU, alone and in the engine."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from composer.engine_plan import LoadedAdapter, MixtureParameters, Row
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle
from composer.vllm.workarounds.cpu_lora import FEW, Rows
from tests.engine.harness import Job, WatchedEngine, count_mismatches

PROMPT = tuple(range(40, 77))
SLOTS = 6


def random_slots(rng: random.Random) -> list[int]:
    """Slots of the rows of a batch: of each slot none, few or many, in any order."""
    counts = [rng.choice([0, 0, 1, 2, FEW, FEW + 1, 40]) for _ in range(SLOTS + 1)]
    rows = [
        slot for slot, count in zip(range(-1, SLOTS), counts, strict=True) for _ in range(count)
    ]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_every_row_of_an_adapter_is_in_one_part(seed: int) -> None:
    slots = random_slots(random.Random(seed))
    rows = Rows.of(tuple(slots))
    found = {int(row): slot for slot, part in rows.many for row in part}
    assert all(len(part) > FEW for _, part in rows.many)
    if rows.few is not None:
        pairs = zip(rows.few.rows.tolist(), rows.few.slots, strict=True)
        for row, slot in pairs:
            assert row not in found
            found[row] = slot
    assert found == {row: slot for row, slot in enumerate(slots) if slot >= 0}
    by_slot = {int(row): slot for slot, part in rows.by_slot() for row in part}
    assert by_slot == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "size"), [(16, 704), (256, 48), (1, 1), (257, 3)])
def test_rows_times_the_factors_of_their_slots(dtype: torch.dtype, width: int, size: int) -> None:
    torch.manual_seed(0)
    few = Rows.of((3, -1, 0, 5, 3, -1, 5, 1)).few
    assert few is not None
    factors = torch.randn(SLOTS, width, size, dtype=dtype)
    for _ in range(2):  # the second time with the indices of the first
        x = torch.randn(len(few.rows), width, dtype=dtype)
        expected = torch.stack(
            [row.double() @ factors[slot].double() for row, slot in zip(x, few.slots, strict=True)]
        )
        found = few.times(x, factors)
        assert found.dtype == dtype
        accuracy = 1e-5 if dtype == torch.float32 else 2e-2
        assert torch.allclose(found.double(), expected, rtol=accuracy, atol=accuracy * width**0.5)


def with_factors(folder: Path, module: str, a: str, b: str, **shapes: tuple[int, int]) -> Path:
    """A copy of an adapter with factors for one more module."""
    shutil.copytree(zoo.ADAPTERS["chat"], folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"].append(module.rpartition(".")[2])
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(folder / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in (a, b):
        tensors[f"base_model.model.{module}.{name}"] = (
            torch.randn(shapes[name.split(".")[0]], generator=generator) * 0.1
        )
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def with_head(folder: Path) -> Path:
    """An adapter that changes the output layer too."""
    shapes = {"lora_A": (16, 256), "lora_B": (1024, 16)}
    return with_factors(folder, "lm_head", "lora_A.weight", "lora_B.weight", **shapes)


@pytest.mark.parametrize("layer", ["head", "embedding"])
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_adapters_of_the_output_and_the_input_layer(
    layer: str, roomy: WatchedEngine, zoo_base: Path, tmp_path: Path
) -> None:
    """Few adapters have them, and batches without pay nothing for them."""
    if layer == "head":
        path = with_head(tmp_path / "own")
    else:
        path = with_factors(
            tmp_path / "own",
            "model.embed_tokens",
            "lora_embedding_A",
            "lora_embedding_B",
            lora_embedding_A=(16, 1024),
            lora_embedding_B=(256, 16),
        )
    own = LoadedAdapter("own", 6001 + (layer == "head"), str(path))
    oracle = Oracle(zoo_base, {"own": path, "chat": zoo.ADAPTERS["chat"]})
    chat = roomy.adapters["chat"]
    params = {"max_tokens": 6}
    jobs = [
        Job(PROMPT, adapter=own, params=params),
        Job(PROMPT, params=params),
        Job(PROMPT, adapter=chat, params=params),
        Job(PROMPT, (Row(1.0), Row(0.5, own), Row(-0.2, chat)), params=params),
        *(Job((k, *PROMPT[:4]), adapter=own, params=params) for k in range(30, 30 + FEW)),
    ]
    wrong, _ = count_mismatches(oracle, jobs, roomy.answers(jobs))
    assert wrong == 0
    [without] = roomy.answers(jobs[2:3])
    assert without != roomy.answers(jobs[:1])[0]
    wrong, _ = count_mismatches(oracle, jobs[2:3], [without])
    assert wrong == 0
    roomy.retire(own)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*")
def test_what_an_adapter_does_to_the_output_layer_counts_in_prompts(
    roomy: WatchedEngine, zoo_base: Path, tmp_path: Path
) -> None:
    """A posterior router sends all tokens of its prompts through that layer, others their last."""
    path = with_head(tmp_path / "own")
    own = LoadedAdapter("own", 6003, str(path))
    oracle = Oracle(zoo_base, {"own": path, "chat": zoo.ADAPTERS["chat"]})
    router = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.7)
    rows = (Row(0.4), Row(0.3, roomy.adapters["chat"]), Row(0.3, own))
    params = {"max_tokens": 8}
    jobs = [
        Job(PROMPT[:size], rows, params=params, mixture=router, report=f"{size}", explain=True)
        for size in (3, 9, 37)
    ]
    others = [Job(PROMPT, adapter=own, params=params), Job(PROMPT[:5], params=params)]
    together = [*others, *jobs]
    for batch in (together, jobs[:1]):
        outputs = roomy.run(batch)
        wrong, _ = count_mismatches(oracle, batch, [list(o.outputs[0].token_ids) for o in outputs])
        assert wrong == 0
        for job, output in zip(batch, outputs, strict=True):
            if job.report is None:
                continue
            _, pi = mixed(oracle, job.oracle_rows(), router, list(output.outputs[0].token_ids))
            [report] = roomy.report(job.report)
            told = torch.tensor(report["tokens"], dtype=torch.float64)
            torch.testing.assert_close(told[:8], pi[:8], atol=1e-4, rtol=0)
    roomy.retire(own)
