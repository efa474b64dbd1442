"""The LoRA kernels for CPU, alone and in the engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import zoo
from composer.engine_plan import LoadedAdapter, MixtureParameters, Row
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle
from composer.vllm.workarounds.lora_factors import MOST_PACKED, LayerFactors
from composer.vllm.workarounds.lora_rows import LONG, SIDE_BY_SIDE, Rows
from tests.engine.harness import Job, WatchedEngine, count_mismatches
from tests.support.adapter_layers import with_factors, with_head

PROMPT = tuple(range(40, 77))
SLOTS = 6


def random_slots(rng: random.Random) -> tuple[int, ...]:
    """Slots of the rows of a batch: a decoding part in any order, then chunks of prompts."""
    members = rng.sample(range(-1, SLOTS), rng.randint(1, SLOTS + 1))
    slots = [rng.choice(members) for _ in range(rng.choice([0, 1, 5, 40]))]
    for _ in range(rng.choice([0, 0, 1, 3])):
        slots += [rng.choice(members)] * rng.choice([1, LONG - 1, LONG, 3 * LONG])
    return tuple(slots)


@pytest.mark.parametrize("seed", range(40))
def test_every_row_of_an_adapter_is_in_one_part(seed: int) -> None:
    slots = random_slots(random.Random(seed))
    rows = Rows.of(slots)
    found: dict[int, int] = {}

    def note(row: int, slot: int) -> None:
        assert row not in found
        found[row] = slot

    for slot, run in rows.runs:
        assert run.stop - run.start >= LONG
        for row in range(run.start, run.stop):
            note(row, slot)
    if (few := rows.few) is not None:
        assert len(few.slots) <= SIDE_BY_SIDE
        places = torch.arange(len(slots))[few.rows].tolist()
        for row, others in zip(places, few.mask(few.slots, 1).tolist(), strict=True):
            for slot, other in zip(few.slots, others, strict=True):
                if not other:
                    note(row, slot)
    if (many := rows.many) is not None:
        assert len({*many.slots}) > SIDE_BY_SIDE
        for row, slot in zip(many.rows.tolist(), many.slots, strict=True):
            note(row, slot)
    assert found == {row: slot for row, slot in enumerate(slots) if slot >= 0}


SIZES = (48, 16, 16)  # of the slices
WIDTH, RANK = 33, 8


def random_adapter(slot: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Factors `[r, in]`, `[size, r]` of each slice; of rank 1 to 8, some slices without any."""
    generator = torch.Generator().manual_seed(slot)
    rank = (1, 3, 8, 4, 2, 8, 5)[slot]
    return [
        None
        if (slot + k) % 4 == 0
        else (
            torch.randn(rank, WIDTH, generator=generator).to(dtype),
            torch.randn(size, rank, generator=generator).to(dtype),
        )
        for k, size in enumerate(SIZES)
    ]


def written(factors: LayerFactors, slot: int, adapter: int) -> None:
    """Write an adapter into a slot as vLLM's layers do: through views, zeros first."""
    for k, pair in enumerate(random_adapter(adapter, factors.a.dtype)):
        a, b = factors[k], factors.b[k].unsqueeze(1).transpose(2, 3)
        a[slot], b[slot] = 0, 0
        if pair is not None:
            a[slot, 0, : len(pair[0])] = pair[0]
            b[slot, 0, :, : pair[1].shape[1]] = pair[1]


def expected_sum(y: torch.Tensor, x: torch.Tensor, adapters: Sequence[int | None]) -> torch.Tensor:
    """The sum in float64, row by row, from the adapters themselves."""
    total = y.double().clone()
    for row, adapter in enumerate(adapters):
        end = 0
        for k, size in enumerate(SIZES):
            begin, end = end, end + size
            if adapter is not None and (pair := random_adapter(adapter, x.dtype)[k]) is not None:
                a, b = pair
                total[row, begin:end] += b.double() @ (a.double() @ x[row].double())
    return total


def added(factors: LayerFactors, slots: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """Zeros plus what the three parts of `Rows` add."""
    y = torch.zeros(len(x), sum(SIZES), dtype=x.dtype)
    rows = Rows.of(slots)
    for slot, run in rows.runs:
        factors.add_to_run(y[run], x[run], slot)
    if rows.few is not None:
        factors.add_to_few(y, x, rows.few)
    if rows.many is not None:
        factors.add_to_many(y, x, rows.many)
    return y


def empty_factors(dtype: torch.dtype) -> LayerFactors:
    return LayerFactors.like(
        tuple(torch.zeros(SLOTS, 1, RANK, WIDTH, dtype=dtype) for _ in SIZES),
        tuple(torch.zeros(SLOTS, 1, size, RANK, dtype=dtype) for size in SIZES),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(20))
def test_products_of_every_part(dtype: torch.dtype, seed: int) -> None:
    """Also after other adapters have taken the slots: packs must follow."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    factors = empty_factors(dtype)
    held = list(range(SLOTS))
    for slot in range(SLOTS):
        written(factors, slot, held[slot])
    slots = random_slots(rng)
    for _ in range(3):
        x = torch.randn(len(slots), WIDTH, dtype=dtype)
        adapters = [held[slot] if slot >= 0 else None for slot in slots]
        expected = expected_sum(torch.zeros(len(x), sum(SIZES)), x, adapters)
        accuracy = 1e-5 if dtype == torch.float32 else 2e-2
        found = added(factors, slots, x).double()
        assert torch.allclose(found, expected, rtol=accuracy, atol=10 * accuracy)
        assert all(not found[row].any() for row, slot in enumerate(slots) if slot < 0)
        slot, adapter = rng.randrange(SLOTS), rng.randrange(SLOTS + 1)
        written(factors, slot, adapter)
        held[slot] = adapter


@pytest.mark.parametrize("slots", [(-1, 0, 1), (0, 1, -1, 0, *[-1] * 20, 1), tuple(range(6))])
@pytest.mark.parametrize("factor", ["a", "b"])
def test_what_overflows_in_one_row_stays_there(slots: tuple[int, ...], factor: str) -> None:
    factors = empty_factors(torch.float32)
    for slot in range(SLOTS):
        written(factors, slot, slot)
    x = torch.randn(len(slots), WIDTH)
    alone = added(factors, slots, x)
    (factors[1] if factor == "a" else factors.b[1])[0] = torch.inf  # vLLM would not load it
    hit = added(factors, slots, x)
    for row, slot in enumerate(slots):
        assert (slot == 0) != torch.allclose(hit[row], alone[row], atol=1e-5)


def test_few_packs_are_kept() -> None:
    factors = empty_factors(torch.bfloat16)
    for slot in range(SLOTS):
        written(factors, slot, slot)
    assert factors.pack((0,)).width == len(SIZES)  # rank 1 of 8
    pairs = [(a, b) for a in range(SLOTS) for b in range(a + 1, SLOTS)]
    for pair in pairs:
        pack = factors.pack(pair)
        assert {*pair} <= {*pack.slots}
        assert len(pack.slots) <= SIDE_BY_SIDE
        assert sum(len(pack.slots) for pack in factors._packs) <= MOST_PACKED
        assert factors.pack(pair) is pack


def test_an_adapter_that_is_not_in_the_batch_cannot_spoil_it() -> None:
    factors = empty_factors(torch.float32)
    for slot in range(SLOTS):
        written(factors, slot, slot)
    factors.b[0][2] = torch.nan
    x = torch.randn(2, WIDTH)
    added(factors, (1, 2), x)  # a pack with the broken one
    assert added(factors, (0, 1), x).isfinite().all()


def test_one_pack_serves_all_combinations_of_few_adapters() -> None:
    factors = empty_factors(torch.float32)
    for slot in range(SLOTS):
        written(factors, slot, slot)
    combinations = [(1,), (0, 2), (0, 1), (2,), (0, 1, 2)]
    for slots in combinations:
        factors.pack(slots)
    whole = factors.pack((0, 1, 2))
    assert all(factors.pack(slots) is whole for slots in combinations)


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
        *(Job((k, *PROMPT[:4]), adapter=own, params=params) for k in range(30, 38)),
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
