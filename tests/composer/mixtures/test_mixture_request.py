"""The recipe `mixture`: what is read, in which normal form, and how responses show it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composer.engine_plan import MixtureParameters
from composer.errors import CompositionError, CompositionSchemaError, TooManyMembersError
from composer.mixtures.specs import (
    UNIFORM,
    FixedPrior,
    GateSpec,
    HandoverSpec,
    Missing,
    MixturePlan,
    Prior,
    PromptPrior,
    WeightedMixtureSpec,
)
from composer.plan import Limits
from tests.composer.mixtures.mixture_examples import EXPERTS, WEIGHTS, mixture, prior, read, vote

IF_EXAMPLES = ((PromptPrior(0.02, optional=True), 1.0),)
GIVEN = ((FixedPrior((("base", 0.25), ("chat", 0.625), ("velan", 0.125))), 1.0),)


def spec(prior: Prior = UNIFORM, **parameters: Any) -> WeightedMixtureSpec:
    reads_prompt = {"prompt": False} if "posterior" in parameters else {}  # the requests' default
    return WeightedMixtureSpec(prior, MixtureParameters(**reads_prompt | parameters))


@pytest.mark.parametrize(
    ("router", "expected"),
    [
        (None, WeightedMixtureSpec()),
        ("fixed", WeightedMixtureSpec()),
        ({"kind": "fixed"}, WeightedMixtureSpec()),
        ({"kind": "fixed", "weights": None}, WeightedMixtureSpec()),
        ({"kind": "fixed", "weights": {"velan": 3, "base": 3, "chat": 3}}, WeightedMixtureSpec()),
        ({"kind": "fixed", "weights": WEIGHTS}, WeightedMixtureSpec(GIVEN)),
        ("prompt", WeightedMixtureSpec(((PromptPrior(0.1), 1.0),))),
        ({"kind": "prompt", "temperature": 2}, WeightedMixtureSpec(((PromptPrior(2.0), 1.0),))),
        ("posterior", spec(IF_EXAMPLES, fixed=0, posterior=1)),
        ({"kind": "posterior", "prior": "fixed"}, spec(fixed=0, posterior=1)),
        (
            {"kind": "posterior", "forgetting": 0.9, "floor": 0.01, "prompt": True},
            spec(IF_EXAMPLES, fixed=0, posterior=1, forgetting=0.9, floor=0.01, prompt=True),
        ),
        (prior(kind="fixed", weights=WEIGHTS), spec(GIVEN, fixed=0, posterior=1)),
        (
            {"kind": "posterior", "prior": "prompt"},
            spec(((PromptPrior(0.1), 1.0),), fixed=0, posterior=1),
        ),
        ("confidence", spec(fixed=0, confidence=1)),
        (
            {"kind": "confidence", "temperature": 0.5, "prior": "prompt"},
            spec(((PromptPrior(0.1), 1.0),), fixed=0, confidence=1, temperature=0.5),
        ),
        (
            vote(("fixed", 1), ("posterior", 2), ("confidence", 1)),
            spec(fixed=0.25, posterior=0.5, confidence=0.25),
        ),
        (vote(("posterior", 3)), spec(IF_EXAMPLES, fixed=0, posterior=1)),
        (vote(("posterior", 3), ("posterior", 4)), spec(IF_EXAMPLES, fixed=0, posterior=1)),
        # What the fixed and the prompt router say is the prior of the others.
        (
            vote(({"kind": "fixed", "weights": WEIGHTS}, 1), ("prompt", 3), ("posterior", 4)),
            spec(((GIVEN[0][0], 0.25), (PromptPrior(0.1), 0.75)), fixed=0.5, posterior=0.5),
        ),
        (
            vote(("prompt", 1), ({"kind": "posterior", "prior": "prompt"}, 1)),
            spec(((PromptPrior(0.1), 1.0),), fixed=0.5, posterior=0.5),
        ),
        (
            vote(({"kind": "posterior", "prior": "prompt"}, 1), ("confidence", 1)),
            spec(((PromptPrior(0.1), 1.0),), fixed=0, posterior=0.5, confidence=0.5),
        ),
        (
            vote(({"kind": "prompt", "temperature": 3}, 1), ("prompt", 1), ("fixed", 2)),
            WeightedMixtureSpec(
                ((FixedPrior(), 0.5), (PromptPrior(0.1), 0.25), (PromptPrior(3.0), 0.25))
            ),
        ),
        # Weights of one request add up.
        (
            vote(
                ({"kind": "fixed", "weights": {"velan": 0, "base": 0, "chat": 1}}, 1),
                ({"kind": "fixed", "weights": {"velan": 1, "base": 2, "chat": 1}}, 1),
            ),
            WeightedMixtureSpec(GIVEN),
        ),
        (
            vote(
                ({"kind": "fixed", "weights": {"velan": 0, "base": 1, "chat": 1}}, 2),
                ({"kind": "fixed", "weights": {"velan": 1, "base": 0, "chat": 0}}, 1),
            ),
            WeightedMixtureSpec(),
        ),
        ("gate", GateSpec(EXPERTS)),
        (
            {
                "kind": "gate",
                "name": "g",
                "start": "chat",
                "stickiness": 0.5,
                "missing": "remaining",
            },
            GateSpec(EXPERTS, "g", "chat", 0.5, Missing.REMAINING),
        ),
        ({"kind": "sequence", "at": "\n"}, HandoverSpec(EXPERTS, ("\n",))),
        ({"kind": "sequence", "at": 7}, HandoverSpec(EXPERTS, (7,))),
        ({"kind": "sequence", "at": ["\n", 7, "\n"]}, HandoverSpec(EXPERTS, ("\n", 7))),
    ],
)
def test_router_in_normal_form(router: object, expected: object) -> None:
    assert mixture(router).router == expected


def test_the_plan_of_a_mixture() -> None:
    plan = read({"kind": "fixed", "weights": WEIGHTS}, explain=True)
    assert [member.model for member in plan.members] == ["base", "chat", "velan"]
    assert plan.weights == (0.25, 0.625, 0.125)
    assert plan.mixture == MixturePlan(WeightedMixtureSpec(GIVEN), explain=True)
    assert (plan.rows, plan.is_plain, plan.formula()) == (3, False, "mixture(base, chat, velan)")
    assert plan.to_dict() == {
        "formula": "mixture(base, chat, velan)",
        "members": [
            {"model": "base", "weight": 0.25, "prompt": "request"},
            {"model": "chat", "weight": 0.625, "prompt": "request"},
            {"model": "velan", "weight": 0.125, "prompt": "request"},
        ],
        "filters": [],
        "mixture": {
            "router": {"kind": "fixed", "weights": {"base": 0.25, "chat": 0.625, "velan": 0.125}},
            "top_k": None,
            "none": False,
        },
    }


def test_what_the_prompt_decides_weighs_the_same_until_then() -> None:
    plan = read("prompt", top_k=2)
    assert plan.weights == (1 / 3,) * 3
    assert plan.rows == 2
    assert plan.to_dict()["mixture"] == {
        "router": {"kind": "prompt", "temperature": 0.1},
        "top_k": 2,
        "none": False,
    }


def test_when_the_base_answers_instead() -> None:
    for asked, shown in ((True, True), (0.7, 0.7), (1, 1), (False, False)):
        plan = read("prompt", top_k=1, none=asked)
        assert plan.to_dict()["mixture"]["none"] == shown
    assert read("prompt", none=False) == read("prompt")
    assert read("prompt", none=True) != read("prompt", none=1), "a cache tells them apart"


def test_experts_without_weight_do_not_run() -> None:
    weights = {"velan": 1, "base": 0, "chat": 1}
    plan = read({"kind": "fixed", "weights": weights})
    assert plan == read(experts=["chat", "velan"])
    floor = {"kind": "posterior", "floor": 0.4, "prior": {"kind": "fixed", "weights": weights}}
    assert read(floor).rows == 2
    one = read({"kind": "fixed", "weights": {"velan": 0, "base": 0, "chat": 1e-300}})
    assert one.is_plain
    assert one.formula() == "mixture(chat)"


def test_the_floor_is_for_those_that_run() -> None:
    router = {"kind": "posterior", "floor": 0.4, "prior": "prompt"}
    assert read(router, top_k=2).rows == 2
    with pytest.raises(CompositionSchemaError, match="which 3 experts cannot all have"):
        read(router, top_k=3)


def test_huge_weights_do_not_overflow() -> None:
    weights = {"velan": 1e308, "base": 1e308, "chat": 1.5e308}
    assert read({"kind": "fixed", "weights": weights}).weights == pytest.approx(
        (2 / 7, 3 / 7, 2 / 7)
    )


def test_a_switch_runs_one_row_and_keeps_the_order() -> None:
    plan = read({"kind": "sequence", "at": "\n"}, ["velan", "chat", "velan", "base"])
    assert [member.model for member in plan.members] == ["base", "chat", "velan"]
    assert plan.weights == (1 / 3,) * 3
    assert plan.candidates == ("velan", "chat", "velan", "base")
    assert (plan.rows, plan.is_plain) == (1, False)
    assert plan.formula() == "switch(velan, chat, velan, base)"
    gate = read("gate")
    assert gate.candidates == EXPERTS
    assert gate.rows == 1
    assert gate != read("gate", EXPERTS[::-1])
    assert read().candidates == ("base", "chat", "velan")


def test_one_expert_is_a_plain_request() -> None:
    for router in ("fixed", "prompt", "posterior", "confidence", "gate"):
        assert read(router, ["chat"]).is_plain
    assert read("prompt", ["chat"], top_k=1).is_plain


def test_limits_hold_for_the_experts_that_run() -> None:
    two = Limits(max_members=2)
    for fields in ({}, {"router": "posterior"}, {"router": "gate"}, {"router": "prompt"}):
        with pytest.raises(TooManyMembersError, match="3 different members; at most 2"):
            read(limits=two, **fields)
    assert read("prompt", limits=two, top_k=2).rows == 2
    with pytest.raises(TooManyMembersError):
        read("prompt", limits=Limits(max_members=1), top_k=2)


def test_a_vote_as_responses_show_it() -> None:
    fixed = {"kind": "fixed", "weights": WEIGHTS}
    asked = vote((fixed, 1), ("prompt", 3), ("posterior", 4), ("confidence", 2))
    shown = {"base": 0.25, "chat": 0.625, "velan": 0.125}
    rule = {"forgetting": 1.0, "floor": 0.0, "prompt": False, "prior": None}
    assert mixture(asked).router.to_dict() == vote(
        ({"kind": "fixed", "weights": shown}, 0.1),
        ({"kind": "prompt", "temperature": 0.1}, 0.3),
        ({"kind": "posterior"} | rule, 0.4),
        ({"kind": "confidence", "temperature": 1.0, "prior": None}, 0.2),
    )
    similarly = vote((prior(kind="prompt", temperature=2), 1), ("confidence", 1))
    alone = mixture(similarly).router.to_dict()
    similar = {"kind": "prompt", "temperature": 2.0}
    assert [voter["router"]["prior"] for voter in alone["routers"]] == [similar] * 2


FLOATS = st.floats(0.01, 10)
FIXED = st.fixed_dictionaries(
    {
        "kind": st.just("fixed"),
        "weights": st.none() | st.fixed_dictionaries(dict.fromkeys(EXPERTS, FLOATS)),
    }
)
PROMPT = st.fixed_dictionaries({"kind": st.just("prompt"), "temperature": FLOATS})
PRIORS = st.none() | st.sampled_from(["fixed", "prompt"]) | FIXED | PROMPT
POSTERIOR = st.fixed_dictionaries(
    {
        "kind": st.just("posterior"),
        "forgetting": st.floats(0.1, 1),
        "floor": st.floats(0, 0.3),
        "prompt": st.booleans(),
        "prior": PRIORS,
    }
)
CONFIDENCE = st.fixed_dictionaries(
    {"kind": st.just("confidence"), "temperature": FLOATS, "prior": PRIORS}
)
NEARLY_THE_SAME = {"velan": 0.010000000000000002, "base": 0.01, "chat": 0.01}
SIMPLE = FIXED | PROMPT | POSTERIOR | CONFIDENCE
VOTES = st.lists(
    st.fixed_dictionaries({"router": SIMPLE, "weight": FLOATS}), min_size=1, max_size=4
).map(lambda routers: {"kind": "vote", "routers": routers})
SWITCHES = st.fixed_dictionaries(
    {
        "kind": st.just("gate"),
        "start": st.none() | st.sampled_from(EXPERTS),
        "stickiness": FLOATS,
        "missing": st.sampled_from(["error", "remaining"]),
    }
) | st.fixed_dictionaries(
    {"kind": st.just("sequence"), "at": st.lists(st.text(min_size=1) | st.integers(0), min_size=1)}
)


@given(SIMPLE | VOTES | SWITCHES, st.sampled_from([None, 1, 2, 3]))
@example({"kind": "fixed", "weights": NEARLY_THE_SAME}, None)
@example({"kind": "fixed", "weights": NEARLY_THE_SAME}, 1)
def test_what_responses_show_can_be_asked_for(router: Any, top_k: int | None) -> None:
    try:
        plan = read(router, top_k=top_k)
    except CompositionError:
        return
    description = plan.to_dict()
    again = read(experts=list(plan.candidates), **description["mixture"])
    assert again.weights == pytest.approx(plan.weights)
    assert flat(again.to_dict()) == pytest.approx(flat(description))


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in flat(part, f"{path}.{key}").items()}
    return {path: value}


@given(SIMPLE | VOTES)
def test_shares_and_priors_sum_to_one(router: Any) -> None:
    try:
        plan = read(router)
    except CompositionError:
        return
    assert plan.mixture is not None
    assert isinstance(plan.mixture.router, WeightedMixtureSpec)
    found = plan.mixture.router
    shares = [getattr(found.parameters, rule) for rule in ("fixed", *MixtureParameters.RULES)]
    assert sum(shares) == pytest.approx(1, abs=1e-12)
    assert sum(share for _, share in found.prior) == pytest.approx(1, abs=1e-12)
    assert sum(plan.weights) == pytest.approx(1, abs=1e-12)
