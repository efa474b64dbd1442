"""What crosses into the engine: it arrives as it was sent, or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.engine_plan import (
    ENGINE_ARG,
    MAX_WEIGHT,
    EnginePlan,
    Explaining,
    LoadedAdapter,
    MixtureParameters,
    Row,
    Scoring,
    Switch,
)
from composer.filters import Filter, FilterKind
from tests.support.foreign_plans import JSON_VALUES, mutated_plans

WEIGHTS = st.floats(-MAX_WEIGHT, MAX_WEIGHT)
ADAPTERS = st.none() | st.builds(LoadedAdapter, st.text(), st.integers(1, 2**63 - 1), st.text())
TOKENS = st.none() | st.lists(st.integers(0), min_size=1).map(tuple)
MODELS = st.none() | st.text()


@st.composite
def plans(draw: st.DrawFn) -> EnginePlan:
    leader = draw(st.builds(Row, WEIGHTS, ADAPTERS))
    companions = draw(st.lists(st.builds(Row, WEIGHTS, ADAPTERS, TOKENS, MODELS), max_size=4))
    rows = (leader, *companions)
    member = st.integers(0, len(rows) - 1)
    filters = st.builds(Filter, st.sampled_from(FilterKind), member, st.floats(0, 1))
    different = st.lists(
        filters,
        max_size=3,
        unique_by=lambda f: (f.kind, f.kind is not FilterKind.SOFT_TOP_K and f.member),
    )
    return EnginePlan(rows, tuple(draw(different)), log_softmax=draw(st.booleans()))


@st.composite
def mixtures(draw: st.DrawFn) -> EnginePlan:
    plan = draw(plans())
    share = draw(st.floats(0, 1))
    mixture = MixtureParameters(
        fixed=share,
        posterior=(1 - share) / 2,
        confidence=(1 - share) / 2,
        forgetting=draw(st.floats(0.01, 1)),
        floor=draw(st.floats(0, 0.9)),
        prompt=draw(st.booleans()),
        temperature=draw(st.floats(0.01, 9)),
    )
    rows = tuple(replace(row, weight=abs(row.weight) or 1.0) for row in plan.rows)
    filters = tuple(f for f in plan.filters if f.kind is not FilterKind.SOFT_TOP_K)
    return EnginePlan(
        rows, filters, mixture, None, draw(st.none() | st.text()), draw(st.booleans())
    )


@st.composite
def switches(draw: st.DrawFn) -> EnginePlan:
    candidates = tuple(draw(st.lists(ADAPTERS, min_size=1, max_size=4)))
    start = draw(st.integers(0, len(candidates) - 1))
    if draw(st.booleans()):
        classes = tuple(draw(st.integers(0, 9)) for _ in candidates)
        sticky = draw(st.floats(0, 9))
        switch = Switch(candidates, start, "gate.safetensors", classes, stickiness=sticky)
    else:
        triggers = draw(st.lists(st.integers(0), min_size=1, max_size=3))
        switch = Switch(candidates, start, triggers=tuple(triggers))
    row = Row(1.0, candidates[start])
    return EnginePlan((row,), (), None, switch, draw(st.none() | st.text()), draw(st.booleans()))


@given(plans() | mixtures() | switches())
def test_round_trip(plan: EnginePlan) -> None:
    extra_args = plan.to_extra_args()
    assert list(extra_args) == [ENGINE_ARG]
    assert EnginePlan.from_extra_args(extra_args) == plan
    # Over HTTP they travel as JSON, among others.
    travelled = json.loads(json.dumps(extra_args)) | {"other": 1}
    assert EnginePlan.from_extra_args(travelled) == plan


@pytest.mark.parametrize("extra_args", [None, {}, {"other": "x"}])
def test_a_plain_request_has_no_plan(extra_args: dict[str, Any] | None) -> None:
    assert EnginePlan.from_extra_args(extra_args) is None


ROW = {"weight": 1.0, "adapter": None, "prompt_token_ids": None, "model": None}
PLAN = {
    "rows": [ROW],
    "filters": [],
    "mixture": None,
    "switch": None,
    "report_id": None,
    "explain": False,
    "log_softmax": False,
    "scoring": None,
    "explanation": None,
}


def test_the_form_that_the_errors_below_depart_from() -> None:
    filters = [{"kind": "top_p", "member": 0, "value": 0.5}]
    plan = EnginePlan.from_extra_args({ENGINE_ARG: json.dumps(PLAN | {"filters": filters})})
    assert plan == EnginePlan((Row(1.0),), (Filter(FilterKind.TOP_P, 0, 0.5),))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "base + polite",
        "[]",
        "null",
        "{}",
        json.dumps({"rows": [ROW]}),
        *(json.dumps({k: v for k, v in PLAN.items() if k != missing}) for missing in PLAN),
        *(
            json.dumps(PLAN | {"rows": [row]})
            for row in (
                {"weight": 1.0},
                *({k: v for k, v in ROW.items() if k != missing} for missing in ROW),
                ROW | {"weight": None},
                ROW | {"adapter": {"name": "a", "id": 1}},
                ROW | {"adapter": {"name": "a", "id": True, "path": "/a"}},
                ROW | {"adapter": ["a", 1, "/a"]},
                ROW | {"prompt_token_ids": [1.0]},
            )
        ),
        json.dumps(PLAN | {"filters": [1]}),
        PLAN,  # an object instead of its JSON
        3,
    ],
)
def test_anything_else_is_an_error_that_names_the_argument(value: object) -> None:
    with pytest.raises(ValueError, match=f"'{ENGINE_ARG}' is not an engine plan"):
        EnginePlan.from_extra_args({ENGINE_ARG: value})


@given(JSON_VALUES | mutated_plans())
def test_any_json_is_a_plan_or_a_value_error(value: object) -> None:
    for text in (value, json.dumps(value)):
        try:
            plan = EnginePlan.from_extra_args({ENGINE_ARG: text})
        except ValueError:
            continue
        assert plan is None or EnginePlan.from_extra_args(plan.to_extra_args()) == plan


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "x", "member": 0, "value": 0.5},
        {"kind": "top_p", "member": 0},
        {"kind": "top_p", "member": 0, "value": "y"},
        {"kind": "top_p", "member": 0.5, "value": 0.5},
        ["top_p", 0, 0.5],
    ],
)
def test_a_wrong_filter_is_an_error(value: object) -> None:
    text = json.dumps(PLAN | {"filters": [value]})
    with pytest.raises(ValueError):  # noqa: PT011 (any: the front end never writes this)
        EnginePlan.from_extra_args({ENGINE_ARG: text})


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        (Scoring(0, "r"), "scores 0 tokens"),
        (Scoring(3, "r", weights=((1.0, 2.0),)), "2 weights for 1 rows"),
        (Scoring(3, "r", weights=((math.nan,),)), "is not within"),
        (Scoring(3, "r", divergences=True), "further weights, and there are none"),
    ],
)
def test_an_impossible_scoring_is_an_error(scoring: Scoring, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePlan((Row(1.0),), scoring=scoring)


def test_an_explanation_compares_with_a_row_that_there_is() -> None:
    with pytest.raises(ValueError, match="compares with row 1 of 1"):
        EnginePlan((Row(1.0),), explanation=Explaining("r", 1))
    plan = EnginePlan((Row(1.0),), explanation=Explaining("r", 0))
    assert EnginePlan.from_extra_args(plan.to_extra_args()) == plan


def test_scoring_survives_the_way_to_the_engine() -> None:
    scoring = Scoring(
        3, "r", members=True, weights=((1.0,), (-0.5,)), moments=True, divergences=True
    )
    plan = EnginePlan((Row(1.0),), scoring=scoring)
    assert EnginePlan.from_extra_args(plan.to_extra_args()) == plan
    with pytest.raises(ValueError, match="for sums"):
        EnginePlan((Row(1.0),), mixture=MixtureParameters(), scoring=scoring)


LEADER = Row(1.0)


@pytest.mark.parametrize(
    ("rows", "filters", "message"),
    [
        ((), (), "an engine plan needs at least one row"),
        ((Row(1.0, None, (5,)),), (), "row 0, the leader, must read the request's own prompt"),
        ((Row(1.0, None, None, "small"),), (), "row 0, the leader, runs on 'small' instead of"),
        ((LEADER, Row(math.nan)), (), "weight nan is not a finite number"),
        ((Row(-math.inf),), (), "weight -inf is not a finite number"),
        ((LEADER, Row(1.0, None, ())), (), "the prompt of a member is empty; give it at least one"),
        ((LEADER,), (Filter(FilterKind.TOP_P, 1, 0.9),), "filter top_p names row 1 of 1"),
        ((LEADER,), (Filter(FilterKind.TOP_P, -1, 0.9),), "filter top_p names row -1 of 1"),
    ],
)
def test_an_impossible_plan_is_an_error(
    rows: tuple[Row, ...], filters: tuple[Filter, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePlan(rows, filters)


ONE = LoadedAdapter("one@0", 1, "/one")
TRIGGERED = Switch((None, ONE), triggers=(5,))


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ((Row(-0.5), Row(1.5)), {"mixture": MixtureParameters()}, "the prior of a row is negative"),
        ((LEADER, LEADER), {"switch": TRIGGERED}, "a switch has one row and nothing else"),
        (
            (LEADER,),
            {"switch": TRIGGERED, "mixture": MixtureParameters()},
            "a switch has one row and nothing else",
        ),
        ((Row(1.0, ONE),), {"switch": TRIGGERED}, "begins with another adapter than its start"),
        (
            (LEADER,),
            {"switch": TRIGGERED, "scoring": Scoring(3, "r", members=True)},
            "score each alone",
        ),
        (
            (LEADER,),
            {"switch": TRIGGERED, "scoring": Scoring(3, "r", weights=((1.0,),))},
            "score each alone",
        ),
    ],
)
def test_an_impossible_mixture_or_switch_is_an_error(
    rows: tuple[Row, ...], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePlan(rows, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"fixed": 0.5},
        {"fixed": 1.5, "posterior": -0.5},
        {"forgetting": 0.0},
        {"forgetting": 1.1},
        {"floor": -0.1},
        {"floor": 1.0},
        {"temperature": 0.0},
    ],
)
def test_an_impossible_rule_is_an_error(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"do not sum to one|is out of range"):
        MixtureParameters(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 2, "triggers": (5,)}, "candidate 2 of 2 cannot start"),
        ({"start": -1, "triggers": (5,)}, "candidate -1 of 2 cannot start"),
        ({}, "either a gate or triggers"),
        ({"gate": "g", "classes": (0, 1), "triggers": (5,)}, "either a gate or triggers"),
        ({"gate": "g", "classes": (0,)}, "a class for every candidate"),
    ],
)
def test_an_impossible_switch_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Switch((None, ONE), **fields)


def test_a_row_that_may_lead_is_moved_to_the_front() -> None:
    small, own, base = Row(0.8, None, None, "small"), Row(0.5, None, (5,)), Row(1.0)
    filters = [Filter(FilterKind.TOP_P, k, 0.9) for k in range(3)]
    plan = EnginePlan.led([small, own, base], filters)
    assert plan.rows == (base, small, own)
    assert [plan.rows[f.member] for f in plan.filters] == [small, own, base]
    assert EnginePlan.led(plan.rows, plan.filters) == plan


def test_without_one_the_base_leads_and_adds_nothing() -> None:
    rows = (Row(0.8, None, None, "small"), Row(0.5, None, (5,)))
    plan = EnginePlan.led(rows, [Filter(FilterKind.TOP_P, 1, 0.9)])
    assert plan.rows == (Row(0.0), *rows)
    assert plan.rows[plan.filters[0].member] == rows[1]
    assert EnginePlan.order(rows) == [None, 0, 1]
    assert EnginePlan.order(plan.rows) == [0, 1, 2]
    assert EnginePlan.order(plan.rows[1:] + plan.rows[:1]) == [2, 0, 1]


SOFT = FilterKind.SOFT_TOP_K


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filters": (Filter(SOFT, 0, 5), Filter(SOFT, 1, 5))}, "2 filters soft_top_k"),
        ({"filters": (Filter(SOFT, 0, 5),), "mixture": MixtureParameters()}, "for sums"),
        ({"log_softmax": True, "mixture": MixtureParameters()}, "for sums"),
    ],
)
def test_what_only_a_sum_has(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnginePlan((Row(0.5), Row(0.5)), **fields)
