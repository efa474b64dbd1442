"""What a mixture that cannot be is answered with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    UnknownModelError,
    UnsupportedError,
)
from composer.request import parse_composition
from tests.composer.mixtures.mixture_examples import EXPERTS, NAMES, WEIGHTS, prior, read, vote


def test_unknown_experts() -> None:
    for router in ("fixed", "gate", {"kind": "sequence", "at": 1}):
        with pytest.raises(UnknownModelError, match="model 'gone' is not served here"):
            read(router, ["chat", "gone"])


KINDS = "fixed, prompt, posterior, confidence, vote, gate, sequence."

ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"experts": []}, ".experts", "composition.experts is a list of 0; it should have at least 1"),
    ({"experts": "chat"}, ".experts", "composition.experts is 'chat'; it should be a valid list"),
    ({"experts": [""]}, ".experts[0]", "composition.experts[0] is ''; it should have at least 1"),
    ({"expert": []}, ".expert", "composition.expert is not a field; did you mean 'experts'? The f"),
    ({"experts": ["chat", "base", "chat"]}, "", "the expert 'chat' is listed twice. List every "),
    ({"top_k": 0}, ".top_k", "composition.top_k is 0; it should be greater than or equal to 1."),
    ({"top_k": 1.5}, ".top_k", "composition.top_k is 1.5; it should be a valid integer."),
    ({"top_k": True}, ".top_k", "composition.top_k is true; it should be a valid integer."),
    ({"top_k": 4}, "", "top_k is 4, and the mixture has 3 experts. Give at most 3, or leave it"),
    ({"top_k": 2}, "", "top_k is 2 of 3 experts, but before the answer begins they all weigh the"),
    ({"top_k": 2, "router": "posterior"}, "", "top_k is 2 of 3 experts, but before the answer beg"),
    ({"top_k": 2, "router": "gate"}, "", "top_k is 2, but the gate router runs one row and weighs"),
    ({"none": 0}, ".none", "composition.none is 0; it should be"),
    ({"none": 1.5}, ".none", "composition.none is 1.5; it should be"),
    ({"none": "base"}, ".none", "composition.none is 'base'; it should be"),
    (
        {"none": True},
        "",
        "none is true, but the fixed router does not compare the prompt with exam",
    ),
    ({"none": 0.5, "router": "gate"}, "", "none is 0.5, but the gate router does not compare the"),
    ({"explain": 1}, ".explain", "composition.explain is 1; it should be a valid boolean."),
    ({"router": None}, ".router", "composition.router: null is not a router; give an object with "),
    ({"router": ["fixed"]}, ".router", "composition.router: a list of 1 is not a router; give an"),
    (
        {"router": {}},
        ".router",
        f"composition.router: the router has no 'kind'; give one of {KINDS}",
    ),
    (
        {"router": "postrior"},
        ".router",
        "composition.router: the kind of router 'postrior' is not allowed here; did you mean "
        f"'posterior'? Use one of: {KINDS}",
    ),
    (
        {"router": {"kind": 3}},
        ".router",
        f"composition.router: the kind of router 3 is not allowed here. Use one of: {KINDS}",
    ),
    (
        {"router": {"kind": "posterior", "forgeting": 1}},
        ".router.forgeting",
        "composition.router.forgeting is not a field; did you mean 'forgetting'? The fields are: k",
    ),
]


def wrong_router(kind: str, param: str, message: str, **fields: Any) -> None:
    ERRORS.append(
        (
            {"router": {"kind": kind} | fields},
            f".router.{param}",
            f"composition.router.{param}{message}",
        )
    )


for _temperature in (0, -1, 1e-4):
    for _kind in ("prompt", "confidence"):
        wrong_router(
            _kind, "temperature", f" is {_temperature}; it should be ", temperature=_temperature
        )
wrong_router("prompt", "temperature", " is 1001; it should be less than", temperature=1001)
wrong_router("posterior", "forgetting", " is 0; it should be greater than 0", forgetting=0)
wrong_router("posterior", "forgetting", " is 1.1; it should be less than or", forgetting=1.1)
wrong_router("posterior", "floor", " is -0.1; it should be greater than or", floor=-0.1)
wrong_router("posterior", "floor", " is 1; it should be less than 1", floor=1)
wrong_router("posterior", "prompt", " is 0; it should be a valid boolean", prompt=0)
wrong_router("posterior", "prior", ": the kind of router 'posterior' is", prior="posterior")
wrong_router("confidence", "prior", ": the kind of router 'vote' is not allowed", prior="vote")
wrong_router(
    "prompt", "prompt", " is not a field; remove it. The fields are: kind, temp", prompt={}
)
wrong_router("vote", "vote", " is not a field; remove it. The fields are: kind, ro", vote=1)
wrong_router("fixed", "weights.base", " is -1; it should be greater than", weights={"base": -1})
wrong_router("fixed", "weights.base", " is '1'; it should be a valid numb", weights={"base": "1"})
wrong_router(
    "fixed",
    "weights",
    ": the weights sum to 0, so no expert is left; give one of them a number above 0.",
    weights=dict.fromkeys(EXPERTS, 0),
)
wrong_router("vote", "routers", " is missing; give it a value")
wrong_router("vote", "routers", " is a list of 0; it should have at least 1", routers=[])
wrong_router(
    "vote",
    "routers[0].router",
    ": the kind of router 'gate' is not allowed here. Use one of: fixed, prompt, posterior, conf",
    routers=[{"router": "gate"}],
)
wrong_router(
    "vote",
    "routers[0].weight",
    " is 0; it should be greater than 0",
    routers=[{"router": "fixed", "weight": 0}],
)
wrong_router("gate", "stickiness", " is -1; it should be greater than or eq", stickiness=-1)
wrong_router("gate", "missing", " is 'x'; it should be 'error' or 'remaining'", missing="x")
wrong_router("sequence", "at", " is missing; give it a value.")
wrong_router("sequence", "at", " is a list of 0; it should be a valid string or be a valid ", at=[])
wrong_router("sequence", "at", " is ''; it should have at least 1 character or be a valid ", at="")
wrong_router("sequence", "at[0]", " is -1; it should be a valid string or be greater than", at=[-1])

FLOOR = "Give a number below 1/3."
ERRORS += [
    (
        {"router": {"kind": "fixed", "weights": {"base": 1, "chat": 1}}},
        "",
        "the router's weights leave out the expert 'velan'. Give a weight to each of 'base',",
    ),
    (
        {"router": {"kind": "fixed", "weights": WEIGHTS | {"count": 1}}},
        "",
        "the router gives 'count' a weight, which is not one of the experts 'base', 'chat'",
    ),
    (
        {"router": {"kind": "posterior", "floor": 0.34}},
        "",
        f"the floor is 0.34, which 3 experts cannot all have. {FLOOR}",
    ),
    (
        {"router": {"kind": "posterior", "floor": 1 / 3}},
        "",
        f"the floor is {1 / 3!r}, which 3 experts cannot all have. {FLOOR}",
    ),
    (
        {"experts": ["chat", "base"] * 200, "router": {"kind": "sequence", "at": 5}},
        "",
        "the sequence has 400 experts; give at most 256.",
    ),
    (
        {"router": {"kind": "gate", "start": "count"}},
        "",
        "the gate starts with 'count', which is not one of the experts 'base', 'chat', 'velan'. N",
    ),
]


@pytest.mark.parametrize(("fields", "param", "message"), ERRORS)
def test_schema_error(fields: dict[str, Any], param: str, message: str) -> None:
    value = {"recipe": "mixture", "experts": list(EXPERTS)} | fields
    with pytest.raises(CompositionSchemaError) as caught:
        parse_composition(value, known=NAMES)
    assert caught.value.message.startswith(message)
    assert caught.value.param == f"composition{param}"


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (vote(("prompt", 1), ({"kind": "posterior", "prior": "fixed"}, 1)), "different priors"),
        (
            vote((prior(kind="prompt"), 1), ({"kind": "confidence", "prior": "fixed"}, 1)),
            "different priors",
        ),
        (
            vote(("posterior", 1), ({"kind": "posterior", "forgetting": 0.5}, 1)),
            "different values of 'forgetting' \\(0.5, 1.0\\)",
        ),
        (
            vote(("posterior", 1), ({"kind": "posterior", "prompt": True}, 1)),
            "different values of 'prompt' \\(false, true\\)",
        ),
        (
            vote(("confidence", 1), ({"kind": "confidence", "temperature": 2}, 1)),
            "different values of 'temperature'",
        ),
    ],
)
def test_a_vote_that_one_request_cannot_hold(router: object, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        read(router)
    assert caught.value.param == "composition"


KEYS = st.sampled_from(
    [
        *("kind", "weights", "temperature", "forgetting", "floor", "prompt", "prior"),
        *("routers", "router", "weight", "name", "start", "stickiness", "missing", "at"),
    ]
)
KIND = st.sampled_from(
    ["fixed", "prompt", "posterior", "confidence", "vote", "gate", "sequence", "x"]
)
ANY_ROUTER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | KIND,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
        | st.tuples(KIND, st.dictionaries(KEYS, inner, max_size=3)).map(
            lambda pair: {"kind": pair[0]} | pair[1]
        )
    ),
    max_leaves=12,
)


@given(ANY_ROUTER, st.lists(st.sampled_from(NAMES), max_size=4), st.none() | st.integers(-1, 5))
def test_any_json_is_a_plan_or_a_composition_error(
    router: object, experts: list[str], top_k: int | None
) -> None:
    value = {"recipe": "mixture", "experts": experts, "router": router, "top_k": top_k}
    try:
        plan = parse_composition(value, known=NAMES)
    except CompositionError as error:
        assert error.param is not None  # noqa: PT017 (the other outcome is fine too)
        error.message.encode()
    else:
        json.dumps(plan.to_dict(), allow_nan=False)
