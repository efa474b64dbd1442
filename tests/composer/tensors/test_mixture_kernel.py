"""The kernel of mixtures against the reference's formulas, on random logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from composer.engine_plan import MixtureParameters
from composer.reference.mixture_oracle import weights as reference
from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows
from composer.tensors.mixture_kernel import MixtureKernel, Turn
from composer.tensors.mixture_states import DEPTH, MixtureStates, PromptPart

CPU = torch.device("cpu")
V = 40
VOTE = MixtureParameters(
    fixed=0.2, posterior=0.5, confidence=0.3, forgetting=0.9, floor=0.1, temperature=2
)
ROUTERS = (
    MixtureParameters(fixed=0.0, posterior=1.0),
    MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.5, floor=0.2),
    MixtureParameters(fixed=0.0, confidence=1.0, temperature=0.3),
    VOTE,
)


def tensor(values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def logits_of(seed: int, rows: int, size: int = V) -> torch.Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def test_fixed_weights_beside_a_sum() -> None:
    base, small = logits_of(0, 5), logits_of(1, 2, V - 7)
    groups = [
        GangRows((0, 1), (0.3, 0.7), mixture=MixtureParameters()),
        GangRows((2, 0, 1), (0.5, 0.25, 0.25), (), (0, 1, 1), MixtureParameters()),
        GangRows((3, 4), (1.0, -0.5)),
    ]
    known = torch.full((2, V), -math.inf)
    known[:, : V - 7] = small
    two = (0.3 * base[0].softmax(0) + 0.7 * base[1].softmax(0)).log()
    three = (0.5 * base[2].softmax(0) + 0.25 * known.softmax(1).sum(0)).log()
    total = base[3] - 0.5 * base[4]
    logits = base.clone()
    Composition(groups, CPU).compose(logits, small)
    torch.testing.assert_close(logits[[0, 2, 3]], torch.stack([two, three, total]))
    torch.testing.assert_close(logits[[1, 4]], base[[1, 4]])  # companions stay as they are


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
def test_weights_over_many_steps(router: MixtureParameters, constrained: bool) -> None:
    """Two groups of different length, one of which is thrown back by two tokens in between."""
    groups = [
        GangRows((0, 2), (0.4, 0.6), mixture=router, name="a"),
        GangRows((1, 3, 4), (0.2, 0.3, 0.5), mixture=router, name="b"),
    ]
    states = MixtureStates(CPU)
    slots = [states.take(2), states.take(3)]
    kernel = MixtureKernel(groups, tensor)
    steps = [*range(6), 4, 5, 6, 7]  # tokens 4 and 5 are sampled again
    tokens = [[(7 * p + 3 * g + 1) % V for g in range(5)] for p in range(8)]
    weights: dict[int, torch.Tensor] = {}
    for position in steps:
        logits = logits_of(position, 5)
        kernel.prepare([Turn(slot, position) for slot in slots], states)
        kernel.compose([logits], constrained)
        kernel.update(torch.tensor(tokens[position]).unsqueeze(1))
        weights[position] = kernel.weights
    for index, group in enumerate(groups):
        prior = torch.tensor(group.weights, dtype=torch.float64)
        rows = list(group.rows)
        log_probs = torch.stack(
            [logits_of(p, 5)[rows].double().log_softmax(1) for p in range(8)], 1
        )  # [K, T, V]
        sampled_tokens = torch.tensor([tokens[p][group.rows[0]] for p in range(8)])
        evidence = log_probs[:, torch.arange(8), sampled_tokens]
        expected = reference(prior, evidence[:, :7], log_probs, router)
        found = torch.stack([weights[p][index, : len(rows)] for p in range(8)]).double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        total = states.totals(slots[index], len(rows))[8 % DEPTH]
        torch.testing.assert_close(total, expected.sum(0), atol=1e-5, rtol=1e-5)


def test_an_expert_recovers_from_a_token_that_it_ruled_out() -> None:
    """How fast, the oracle says: by a bound of its own on the log-probability that counts."""
    router = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.5)
    kernel = MixtureKernel([GangRows((0, 0), (0.5, 0.5), (), (0, 1), router)], tensor)
    states = MixtureStates(CPU)
    slot, steps = states.take(2), 20
    sampled_tokens = torch.tensor(
        [V - 1, *[3] * (steps - 1)]
    )  # the first is beyond the second vocabulary
    found, log_probs = [], []
    for position in range(steps):
        base, small = torch.zeros(1, V), torch.zeros(1, V - 5)
        small[0, 3] = 4.0  # from then on the second expert predicts better
        log_probs.append(pad(small, (0, 5), value=-math.inf).double().log_softmax(1)[0])
        kernel.prepare([Turn(slot, position)], states)
        kernel.compose([base, small], constrained=False)
        kernel.update(sampled_tokens[position].view(1, 1))
        found.append(kernel.weights[0].double())
    both = torch.stack(
        [torch.zeros(steps, V).double().log_softmax(1), torch.stack(log_probs)]
    )  # [K, T, V]
    evidence = both[:, torch.arange(steps), sampled_tokens][:, :-1]
    expected = reference(torch.tensor([0.5, 0.5]).double(), evidence, both, router)
    assert expected[1, 1] == 0
    assert expected[-1, 1] > 0.9
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-6, rtol=1e-5)


def test_what_is_not_sampled_is_not_kept() -> None:
    states = MixtureStates(CPU)
    slot = states.take(2)
    kernel = MixtureKernel([GangRows((0, 1), (0.5, 0.5), mixture=ROUTERS[0])], tensor)
    for sampled in (False, True):
        kernel.prepare([Turn(slot, 0, sampled)], states)
        kernel.compose([logits_of(0, 2)], constrained=False)
        kernel.update(torch.tensor([[3], [3]]))
        assert bool(states.values[slot * DEPTH + 1].any()) is sampled


def test_reading_a_prompt_in_pieces() -> None:
    log_probs = -torch.rand(10, generator=torch.Generator().manual_seed(0))
    found = []
    for pieces in ([10], [3, 7], [1] * 10):
        states = MixtureStates(CPU)
        slot = states.take(2)
        begin = 0
        for count in pieces:
            part = PromptPart(slot, 1, count, 0.7)
            states.read_prompts([part], log_probs[begin : begin + count])
            begin += count
        found.append(float(states.values[slot * DEPTH, 0, 1]))
        assert float(states.values[slot * DEPTH, 0, 0]) == 0
    expected = sum(0.7 ** (9 - n) * float(log_probs[n]) for n in range(10))
    assert found == pytest.approx([expected] * 3)


def test_reading_the_prompts_of_several_rows() -> None:
    """Each part counts in its own row, at its own rate, on what the row had read before."""
    states = MixtureStates(CPU)
    one, two = states.take(2), states.take(3)
    for slot in (one, two):
        states.values[slot * DEPTH, 0] = -1.0
    parts = [PromptPart(two, 2, 3, 0.5), PromptPart(one, 0, 1, 1.0), PromptPart(two, 0, 2, 0.0)]
    log_probs = torch.tensor([-1.0, -2.0, -4.0, -0.5, -math.inf, -3.0])
    states.read_prompts(parts, log_probs)
    assert states.values[one * DEPTH, 0].tolist() == [-1.5, -1.0, -1.0]
    assert states.values[two * DEPTH, 0].tolist() == [-3.0, -1.0, -0.125 - 0.25 - 1.0 - 4.0]
    assert not states.values[one * DEPTH + 1 : two * DEPTH].any()
    states.read_prompts([PromptPart(one, 1, 1, 1.0)], torch.tensor([-math.inf]))
    assert states.values[one * DEPTH, 0].tolist() == [-1.5, -1.0 - 1e4, -1.0]


def test_slots_are_empty_when_they_are_taken_again() -> None:
    states = MixtureStates(CPU)
    first = states.take(2)
    states.values.fill_(1.0)
    others = {states.take(size) for size in (1, 5, 3)}
    assert first not in others
    assert 0 not in others | {first}
    states.give_back(first)
    assert states.take(4) == first
    assert not states.values[first * DEPTH : (first + 1) * DEPTH].any()


def test_an_expert_that_knows_no_allowed_token() -> None:
    """It has no weight in what is sampled, and the row has no NaN."""
    base, small = logits_of(0, 1), logits_of(1, 1, V - 5)
    base[:, : V - 5] = -math.inf  # a grammar wants one of the last five
    for router in (MixtureParameters(), *ROUTERS):
        groups = [GangRows((0, 0), (0.5, 0.5), (), (0, 1), router, "a")]
        states = MixtureStates(CPU)
        composition = Composition(groups, CPU)
        if composition.routed is not None:
            composition.routed.prepare([Turn(states.take(2), 0)], states)
        logits = base.clone()
        composition.compose(logits, small)
        assert not logits.isnan().any()
        assert logits[0, : V - 5].max() == -math.inf
        torch.testing.assert_close(logits[0, V - 5 :].softmax(0), base[0, V - 5 :].softmax(0))
