"""The kernel against a plain computation in float64."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.bounds import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY
from composer.filters import Filter, FilterKind
from composer.reference.oracle import filter_mask
from composer.tensors import demote, filter_kernel
from composer.tensors.compose import Composition
from composer.tensors.filter_kernel import outside_nucleus, outside_top
from composer.tensors.gang_rows import GangRows

CPU = torch.device("cpu")
VALUES = {
    FilterKind.TOP_P: (0.05, 0.5, 0.9),
    FilterKind.PLAUSIBILITY: (0.05, 0.5, 0.9),
    FilterKind.TOP_K: (1.0, 7.0, 20.0, 49.0, 50.0, 1e6),
    FilterKind.SOFT_TOP_K: (1.0, 7.0, 20.0, 49.0, 50.0, 1e6),
}


def expected(logits: torch.Tensor, group: GangRows) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum `[V]`, and which tokens the filters drop `[V]`: none if none would be left."""
    rows = logits.double()[list(group.rows)]
    forbidden = rows[0] == -math.inf
    if group.log_softmax:
        rows = rows.masked_fill(forbidden, -math.inf).log_softmax(1).masked_fill(forbidden, 0.0)
    terms = [w * row for w, row in zip(group.weights, rows, strict=True)]
    if (f := group.soft) is not None:
        judge = rows[f.member].masked_fill(forbidden, -math.inf)
        likeliest = judge.sort(descending=True).values[min(int(f.value), len(judge)) - 1]
        chosen = ~forbidden & (judge >= likeliest)
        for k, term in enumerate(terms):
            if k != f.member:
                terms[k] = torch.where(chosen, term - term[chosen].mean(), 0.0)
    z = torch.stack(terms).sum(0)
    dropped = torch.zeros_like(forbidden)
    for f in group.dropping:
        member = rows[f.member].masked_fill(forbidden, -math.inf)
        if f.kind is FilterKind.PLAUSIBILITY:
            keep = member >= member.max() + math.log(f.value)
        elif f.kind is FilterKind.TOP_K:
            keep = member >= member.sort(descending=True).values[min(int(f.value), 50) - 1]
        else:
            probs, order = member.softmax(0).sort(descending=True)
            keep = torch.zeros_like(forbidden)
            keep[order[probs.cumsum(0) - probs < f.value]] = True
        dropped |= ~keep
    if (dropped | forbidden).all():
        dropped.zero_()
    return z.masked_fill(forbidden, -math.inf), dropped & ~forbidden


def assert_filtered(row: torch.Tensor, z: torch.Tensor, dropped: torch.Tensor) -> None:
    """A composed row `[V]` is the sum, but the dropped tokens are impossible, and in order."""
    scale = float(z[z.isfinite()].abs().max())
    kept, atol = row[~dropped].double(), 1e-3 * max(1.0, scale / 1e3)
    torch.testing.assert_close(kept, z[~dropped], rtol=1e-5, atol=atol)
    if dropped.any():
        for temperature in (1.0, 100.0):
            probs = (row / temperature).softmax(0)
            assert (probs[dropped] == 0).all()
        assert row[dropped].isfinite().all()
        lower = z[dropped] - row[dropped].double()
        spread = float(lower.max() - lower.min())
        assert spread <= 0.02 * max(1.0, scale / 1e3), "the dropped tokens keep their distances"


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, list[GangRows]]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    plain = draw(st.integers(0, 3))
    rows = list(range(sum(sizes) + plain))
    rng.shuffle(rows)
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    logits = torch.randn(len(rows), 50, generator=generator) * 5
    groups = []
    for size in sizes:
        own = tuple(rows.pop() for _ in range(size))
        weights = tuple(rng.choice([1.0, -1.0, 0.3, 2.5, -0.7]) for _ in own)
        filters = [
            Filter(kind, member, rng.choice(VALUES[kind]))
            for kind in FilterKind
            if kind is not FilterKind.SOFT_TOP_K
            for member in range(size)
            if rng.random() < 0.4 / size**0.5
        ]
        if rng.random() < 0.5:
            kind = FilterKind.SOFT_TOP_K
            filters.append(Filter(kind, rng.randrange(size), rng.choice(VALUES[kind])))
        log_softmax = rng.random() < 0.5
        groups.append(GangRows(own, weights, tuple(filters), log_softmax=log_softmax))
        if rng.random() < 0.4:
            logits[own[0], rng.sample(range(50), 20)] = -math.inf
    return logits, groups


@settings(max_examples=200)
@given(batches())
def test_compose_is_the_weighted_sum(batch: tuple[torch.Tensor, list[GangRows]]) -> None:
    logits, groups = batch
    before = logits.clone()
    Composition(groups, CPU).compose(logits)
    leaders = {group.rows[0] for group in groups}
    for group in groups:
        assert_filtered(logits[group.rows[0]], *expected(before, group))
    others = [row for row in range(len(logits)) if row not in leaders]
    assert torch.equal(logits[others], before[others])


def test_weight_one_alone_changes_nothing_bit_for_bit() -> None:
    logits = torch.randn(4, 100)
    before = logits.clone()
    Composition([GangRows((2, 0), (1.0, 0.0)), GangRows((1,), (1.0,))], CPU).compose(logits)
    assert torch.equal(logits, before)


def test_forbidden_tokens_stay_forbidden_and_nothing_is_nan() -> None:
    logits = torch.randn(3, 6)
    logits[0, :3] = -math.inf
    logits[1, 1:3] = -math.inf  # in a companion's row as well
    Composition([GangRows((0, 1, 2), (-1.0, -2.0, 1.0))], CPU).compose(logits)
    assert (logits[0, :3] == -math.inf).all()
    assert logits[0, 3:].isfinite().all()


@pytest.fixture(params=["_demote_by_row", "_demote_all"])
def demotion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the CPU uses, and what other devices do."""
    monkeypatch.setattr(demote, "_demote_by_row", getattr(demote, request.param))


@pytest.mark.usefixtures("demotion")
def test_a_filter_never_leaves_a_row_without_tokens() -> None:
    """The filter keeps one token, and a later mask (bad words, min_tokens) forbids it."""
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0]])
    filters = (Filter(FilterKind.PLAUSIBILITY, 0, 0.5),)
    Composition([GangRows((0,), (1.0,), filters)], CPU).compose(logits)
    assert logits[0].softmax(0)[0] == 1.0
    logits[0, 0] = -math.inf
    assert logits[0].argmax() == 2
    assert logits[0].softmax(0).isfinite().all()


@pytest.mark.usefixtures("demotion")
@pytest.mark.parametrize("penalty", [MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY])
@pytest.mark.parametrize("top", [-500.0, 0.0, 500.0])
def test_no_repetition_penalty_lifts_a_filtered_token(top: float, penalty: float) -> None:
    """vLLM multiplies the negative logits of tokens that were seen, and divides the positive."""
    logits = top - torch.arange(4.0).unsqueeze(0)
    Composition([GangRows((0,), (1.0,), (Filter(FilterKind.TOP_K, 0, 1.0),))], CPU).compose(logits)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    for seen in itertools.product([False, True], repeat=4):
        row = torch.where(torch.tensor(seen), penalized[0], logits[0])
        assert row.softmax(0).tolist() == [1, 0, 0, 0]


@pytest.mark.usefixtures("demotion")
@pytest.mark.parametrize("top", [-500.0, 0.0, 500.0])
def test_no_temperature_lifts_a_filtered_token(top: float) -> None:
    """Up to 600 its probability is zero in float32, as that of minus infinity is."""
    logits = top - torch.arange(4.0).unsqueeze(0)
    Composition([GangRows((0,), (1.0,), (Filter(FilterKind.TOP_K, 0, 1.0),))], CPU).compose(logits)
    assert (logits[0] / 600).softmax(0).tolist() == [1, 0, 0, 0]


@pytest.mark.usefixtures("demotion")
def test_filtered_tokens_keep_their_order_to_a_hundredth_of_a_logit() -> None:
    """For the case that a later mask forbids every token that the filter kept."""
    logits = -0.01 * torch.arange(50.0).unsqueeze(0)
    Composition([GangRows((0,), (1.0,), (Filter(FilterKind.TOP_K, 0, 1.0),))], CPU).compose(logits)
    assert (logits[0, :-1] > logits[0, 1:]).all()


@pytest.mark.usefixtures("demotion")
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_no_weight_lifts_a_filtered_token(scale: float) -> None:
    """The base drops token 1, and seven others at the largest weight want nothing else."""
    logits = torch.zeros(8, 4)
    logits[0] = torch.tensor([9.0, 0.0, 8.9, 0.0])
    logits[1:7, 1] = 20 * scale
    filters = (Filter(FilterKind.PLAUSIBILITY, 0, 0.5),)
    group = GangRows(tuple(range(8)), (1.0, *(100.0,) * 7), filters)
    Composition([group], CPU).compose(logits)
    probs = logits[0].softmax(0)
    assert probs[1] == probs[3] == 0
    assert logits[0].isfinite().all()
    assert logits[0, 1] > logits[0, 3]
    torch.testing.assert_close(probs[[0, 2]], torch.tensor([9.0, 8.9]).softmax(0))


@pytest.mark.usefixtures("demotion")
def test_filters_that_leave_nothing_together_do_not_count() -> None:
    logits = torch.tensor([[9.0, 1.0, 0.0], [0.0, 1.0, 9.0]])
    filters = (Filter(FilterKind.TOP_K, 0, 1.0), Filter(FilterKind.TOP_K, 1, 1.0))
    Composition([GangRows((0, 1), (1.0, 0.5), filters)], CPU).compose(logits)
    assert logits[0].tolist() == [9.0, 1.5, 4.5]


def test_a_soft_filter_adds_as_the_authors_of_vas_do() -> None:
    """`VASLogitsProcessor`: values of the top 2, centred, are added to the scores of the base."""
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.5], [9.0, 1.0, 5.0, 7.0]])
    filters = (Filter(FilterKind.SOFT_TOP_K, 0, 2.0),)
    Composition([GangRows((0, 1), (1.0, 0.5), filters)], CPU).compose(logits)
    assert logits[0].tolist() == [1.0, 3.0 - 1.0, 2.0 + 1.0, 0.5]  # the mean of 1 and 5 is 3
    assert logits[1].tolist() == [9.0, 1.0, 5.0, 7.0]


def test_log_softmax_adds_log_probabilities() -> None:
    """`gamma*log_softmax(c) + (1 - gamma)*log_softmax(u)`, as transformers penalizes it."""
    logits = torch.randn(2, 30) * 4 + torch.tensor([[50.0], [-70.0]])
    cond, uncond = logits.double().log_softmax(1)
    Composition([GangRows((0, 1), (1.5, -0.5), log_softmax=True)], CPU).compose(logits)
    torch.testing.assert_close(logits[0].double(), 1.5 * cond - 0.5 * uncond, atol=1e-4, rtol=0)


def test_companions_get_their_leaders_token() -> None:
    tokens = torch.tensor([[1], [2], [3], [4], [5]], dtype=torch.int32)
    Composition([GangRows((3, 0), (1.0, 1.0)), GangRows((1, 4, 2), (1.0,) * 3)], CPU).share_tokens(
        tokens
    )
    assert tokens.flatten().tolist() == [4, 2, 2, 4, 2]


NUCLEUS = ("_nucleus_by_sorting", "_nucleus_by_bisection")
TOP = ("_top_by_sorting", "_top_by_bisection")
"""What the CPU uses, and other devices; both run here."""


@pytest.mark.parametrize("way", NUCLEUS)
@settings(
    max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    seed=st.integers(0, 2**32),
    top_p=st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.999, 1.0]),
    size=st.sampled_from([1, 200, 6000]),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
)
def test_nucleus_is_the_smallest_set_that_reaches_the_mass(
    monkeypatch: pytest.MonkeyPatch, way: str, seed: int, top_p: float, size: int, spread: float
) -> None:
    """More tokens than are sorted at first among them, and some equal ones."""
    monkeypatch.setattr(filter_kernel, "_nucleus_by_sorting", getattr(filter_kernel, way))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, size, generator=generator) * spread
    logits[0, ::3] = logits[0, 0].item()
    # Logits that differ by less than float32 can tell of probabilities are equal tokens.
    weights = (logits - logits.max()).exp()[0].double()
    inside = ~outside_nucleus(logits.clone(), torch.tensor([[top_p]]))[0]
    mass = weights / weights.sum()
    assert mass[inside].sum() >= top_p - 1e-5
    smallest = mass[inside].min()
    more = smallest * (1 + 1e-6)  # `exp` rounds one way here and another way there
    assert mass[mass > more].sum() < top_p + 1e-5
    assert inside.all() or mass[~inside].max() < more
    assert inside.all() or top_p < 1


@pytest.mark.parametrize("way", NUCLEUS)
@pytest.mark.parametrize("top_p", [0.2, 1.0])
def test_nucleus_of_equal_tokens_keeps_all_of_them(
    monkeypatch: pytest.MonkeyPatch, way: str, top_p: float
) -> None:
    monkeypatch.setattr(filter_kernel, "_nucleus_by_sorting", getattr(filter_kernel, way))
    assert not outside_nucleus(torch.full((1, 8), 0.125), torch.tensor([[top_p]])).any()


@pytest.mark.parametrize("way", NUCLEUS)
def test_the_nucleus_of_no_possible_token_loses_none(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(filter_kernel, "_nucleus_by_sorting", getattr(filter_kernel, way))
    logits = torch.full((1, 8), -math.inf)
    assert not outside_nucleus(logits, torch.tensor([[0.5]])).any()


@pytest.mark.parametrize("way", NUCLEUS)
def test_the_nucleus_is_that_of_the_oracle(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(filter_kernel, "_nucleus_by_sorting", getattr(filter_kernel, way))
    logits = torch.randn(20, 5000, generator=torch.Generator().manual_seed(1)) * 2
    for top_p in (0.1, 0.5, 0.9, 0.99):
        wanted = ~filter_mask(Filter(FilterKind.TOP_P, 0, top_p), logits)
        values = torch.full((20, 1), top_p)
        assert torch.equal(filter_kernel.outside(FilterKind.TOP_P, logits.clone(), values), wanted)


V = 40


@pytest.mark.parametrize("log_softmax", [False, True])
@pytest.mark.parametrize("v", [30, 40, 50])
@pytest.mark.parametrize("kind", [None, *FilterKind])
def test_rows_of_an_auxiliary_model(v: int, kind: FilterKind | None, log_softmax: bool) -> None:
    """Its logits are cut to the base's vocabulary; what it does not know is filtered."""
    generator = torch.Generator().manual_seed(v)
    base = torch.randn(3, V, generator=generator)
    own = torch.randn(4, v, generator=generator, dtype=torch.bfloat16)
    base[1, 5] = -math.inf
    value = 5.0 if kind in (FilterKind.TOP_K, FilterKind.SOFT_TOP_K) else 0.3
    filters = (Filter(kind, 2, value),) if kind else ()
    weights = (1.0, 0.8, -0.8, 0.5)
    models = (0, 1, 1, 0)
    group = GangRows((1, 3, 0, 2), weights, filters, models, log_softmax=log_softmax)
    known = min(v, V)
    aligned = torch.full((2, V), -math.inf)
    aligned[:, :known] = own[[3, 0], :known].float()
    forbidden = base[1] == -math.inf
    rows = torch.stack([base[1], *aligned, base[2]]).double().masked_fill(forbidden, -math.inf)
    size = rows.logsumexp(1, keepdim=True) if log_softmax else torch.zeros(1)
    rows = rows.masked_fill(rows == -math.inf, 0.0) - size  # an unknown logit counts as 0
    terms = torch.tensor(weights).double().unsqueeze(1) * rows
    dropped = torch.arange(V) >= known
    for f in filters:
        kept = filter_mask(f, aligned[1].masked_fill(forbidden, -math.inf))
        if kind is FilterKind.SOFT_TOP_K:
            for k in (0, 1, 3):
                terms[k] = torch.where(kept, terms[k] - terms[k][kept].mean(), 0.0)
        else:
            dropped |= ~kept
    wanted = terms.sum(0)
    wanted[5], dropped[5] = -math.inf, False
    before = own.clone()
    logits = base.clone()
    Composition([group], CPU).compose(logits, own)
    assert torch.equal(own, before)
    assert_filtered(logits[1], wanted, dropped)
    assert torch.equal(logits[[0, 2]], base[[0, 2]])


def test_tokens_reach_the_rows_of_auxiliary_models() -> None:
    groups = [
        GangRows((2, 1, 0), (1.0, 1.0, 1.0), models=(0, 1, 2)),
        GangRows((0, 1, 0), (1.0, 1.0, 1.0), models=(0, 0, 1)),
    ]
    base, one, two = (
        torch.tensor(t, dtype=torch.int32).unsqueeze(1) for t in ([7, 8, 9], [0, 0, 0], [0])
    )
    Composition(groups, CPU).share_tokens(base, one, two)
    assert base.flatten().tolist() == [7, 7, 9]
    assert one.flatten().tolist() == [7, 9, 0]
    assert two.flatten().tolist() == [9]


@pytest.mark.parametrize("way", TOP)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), k=st.sampled_from([1, 2, 20, 199, 200, 1000]))
def test_the_likeliest_tokens_are_those_of_a_sort(
    monkeypatch: pytest.MonkeyPatch, way: str, seed: int, k: int
) -> None:
    """Of either sign, tiny, huge, zero of both signs, and forbidden."""
    monkeypatch.setattr(filter_kernel, "_top_by_sorting", getattr(filter_kernel, way))
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-40, 30, (1, 200), generator=generator)
    logits = torch.randn(1, 200, generator=generator) * scale
    logits[0, :6] = torch.tensor([0.0, -0.0, -math.inf, 1e-45, -1e-45, 3e38])
    inside = ~outside_top(logits, torch.tensor([[float(k)]]))
    assert torch.equal(inside, logits >= logits.sort(descending=True).values[:, min(k, 200) - 1])


def test_rows_keep_as_many_tokens_as_each_asks_for() -> None:
    logits = torch.randn(3, 100)
    assert (~outside_top(logits, torch.tensor([[1.0], [20.0], [99.0]]))).sum(1).tolist() == [
        1,
        20,
        99,
    ]


def test_of_equal_tokens_the_top_keeps_all() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    assert outside_top(logits, torch.tensor([[2.0]])).tolist() == [[False] * 4 + [True]]


def test_fewer_allowed_tokens_than_the_top_asks_for_all_stay() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    logits[0, 1:3] = -math.inf  # a grammar
    Composition([GangRows((0,), (1.0,), (Filter(FilterKind.TOP_K, 0, 3.0),))], CPU).compose(logits)
    assert logits[0].tolist() == [3.0, -math.inf, -math.inf, 0.0]
