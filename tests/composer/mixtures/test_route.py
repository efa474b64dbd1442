"""What admission makes of a mixture: the prior, the best experts, the engine's numbers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from composer.engine_plan import MixtureParameters
from composer.errors import UnsupportedError
from composer.mixtures.route import engine_mixture, route
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Limits, Plan
from composer.request import parse_composition

NAMES = ("base", "people", "sums", "letters")
ROUTER = PromptSimilarity(
    {
        "sums": ["What is 3 + 4?", "What is 51 + 8?"],
        "people": ["Where does Ann live?", "Where does Bob live?"],
        "letters": ["Sort b a", "Reverse a b"],
    }
)
EXPERTS = ("letters", "people", "sums")
SUM = "What is 8 + 8?"


def plan(router: object = "fixed", experts: Any = EXPERTS, **fields: Any) -> Plan:
    value = {"recipe": "mixture", "experts": list(experts), "router": router} | fields
    return parse_composition(value, known=NAMES, limits=Limits(max_members=4))


def prior_of(routed: Plan) -> dict[str, float]:
    return {m.model: w for m, w in zip(routed.members, routed.weights, strict=True)}


def fixed(**weights: float) -> dict[str, Any]:
    return {"kind": "fixed", "weights": weights}


def test_a_sum_stays_as_it_is() -> None:
    added = parse_composition("base + 0.5*sums", known=NAMES)
    assert route(added, SUM, None) is added


def test_the_prior_is_what_the_prompt_router_says() -> None:
    sharp = 0.02  # the temperature that the posterior router starts from by default
    for router, temperature in (
        ("prompt", 0.1),
        ({"kind": "posterior", "prior": "prompt"}, 0.1),
        ("posterior", sharp),
    ):
        routed = route(plan(router), SUM, ROUTER)
        weights = ROUTER.weights(SUM, temperature)
        assert prior_of(routed) == pytest.approx(
            {name: weight for name, weight in weights.items() if weight >= 1e-9}
        )
        assert prior_of(routed)["sums"] > 0.9
        assert route(routed, "another text", None) is routed


def test_the_temperature_of_the_request_counts() -> None:
    routed = route(plan({"kind": "prompt", "temperature": 3}), SUM, ROUTER)
    assert prior_of(routed) == pytest.approx(ROUTER.weights(SUM, 3.0))


def test_only_the_experts_of_the_request_share() -> None:
    routed = route(plan("prompt", ["letters", "people"]), "What is Bob + Ann?", ROUTER)
    assert prior_of(routed) == pytest.approx(
        ROUTER.weights("What is Bob + Ann?", names=["letters", "people"])
    )


def test_a_vote_of_priors() -> None:
    router = {
        "kind": "vote",
        "routers": [
            {"router": fixed(letters=1, people=3, sums=0), "weight": 3},
            {"router": "prompt", "weight": 1},
            {"router": "posterior", "weight": 4},
        ],
    }
    similar = ROUTER.weights(SUM)
    given = {"letters": 0.25, "people": 0.75, "sums": 0.0}
    routed = route(plan(router), SUM, ROUTER)
    assert prior_of(routed) == pytest.approx(
        {name: 0.75 * given[name] + 0.25 * similar[name] for name in EXPERTS}
    )
    assert engine_mixture(routed) == MixtureParameters(fixed=0.5, posterior=0.5, prompt=False)


def test_a_vote_of_some_experts() -> None:
    """What each voter says of the two experts of the request sums to one."""
    voters = [{"router": fixed(letters=1, people=4), "weight": 1}]
    voters += [{"router": "fixed", "weight": 2}, {"router": "prompt", "weight": 1}]
    some = plan({"kind": "vote", "routers": voters}, ["letters", "people"])
    similar = ROUTER.weights("Sort 4", names=["letters", "people"])
    assert prior_of(route(some, "Sort 4", ROUTER)) == pytest.approx(
        {
            "letters": 0.25 * 0.2 + 0.5 * 0.5 + 0.25 * similar["letters"],
            "people": 0.25 * 0.8 + 0.5 * 0.5 + 0.25 * similar["people"],
        }
    )


def test_all_the_same_and_the_prompt() -> None:
    router = {"kind": "vote", "routers": [{"router": "fixed"}, {"router": "prompt"}]}
    similar = ROUTER.weights(SUM)
    assert prior_of(route(plan(router), SUM, ROUTER)) == pytest.approx(
        {name: 1 / 6 + similar[name] / 2 for name in EXPERTS}
    )


def test_top_k_keeps_the_best_and_shares_anew() -> None:
    whole = ROUTER.weights(SUM, 1.0)
    best = sorted(EXPERTS, key=lambda name: -whole[name])[:2]
    routed = route(plan({"kind": "prompt", "temperature": 1}, top_k=2), SUM, ROUTER)
    total = sum(whole[name] for name in best)
    assert prior_of(routed) == pytest.approx({name: whole[name] / total for name in best})
    assert [m.model for m in routed.members] == sorted(best)
    assert routed.rows == 2
    assert not routed.is_plain


def test_top_k_of_given_weights() -> None:
    routed = route(plan(fixed(letters=1, people=2, sums=5), top_k=2), "", None)
    assert prior_of(routed) == pytest.approx({"people": 2 / 7, "sums": 5 / 7})
    ties = route(plan(fixed(letters=1, people=1, sums=0.5), top_k=1), "", None)
    assert prior_of(ties) == {"letters": 1.0}


def test_the_best_one_is_a_plain_request() -> None:
    before = plan("prompt", top_k=1)
    assert not before.is_plain
    for kind in ("prompt", {"kind": "posterior", "prior": "prompt"}):
        routed = route(plan(kind, top_k=1), SUM, ROUTER)
        assert prior_of(routed) == {"sums": 1.0}
        assert routed.is_plain
    cold = route(plan({"kind": "prompt", "temperature": 0.001}), SUM, ROUTER)
    assert cold.is_plain  # the others have no weight left


def test_the_base_answers_what_no_expert_knows() -> None:
    none = plan("prompt", top_k=1, none=0.5)
    routed = route(none, "Zebras yawn", ROUTER)
    assert prior_of(routed) == {"base": 1.0}
    assert routed.is_plain
    assert routed.mixture is not None
    assert routed.mixture.familiarity == (("letters", 0.0),)
    assert route(routed, SUM, None) is routed
    familiar = route(none, SUM, ROUTER)
    assert prior_of(familiar) == {"sums": 1.0}
    assert familiar.mixture is not None
    assert familiar.mixture.familiarity == tuple(ROUTER.familiarity(SUM, ["sums"]).items())
    # Without `none`, somebody has to answer.
    assert prior_of(route(plan("prompt", top_k=1), "Zebras yawn", ROUTER)) == {"letters": 1.0}


def test_the_threshold_of_the_request_counts() -> None:
    text = "What is love + 8, dear friend of mine?"
    [(name, familiarity)] = ROUTER.familiarity(text, ["sums"]).items()
    assert 0 < familiarity < 1
    for router in ("prompt", {"kind": "posterior", "prior": "prompt"}):
        below, above = familiarity * 0.99, familiarity * 1.01
        assert prior_of(route(plan(router, top_k=1, none=below), text, ROUTER)) == {name: 1.0}
        assert prior_of(route(plan(router, top_k=1, none=above), text, ROUTER)) == {"base": 1.0}


def test_one_familiar_expert_of_those_that_run_is_enough() -> None:
    voters: list[Any] = [{"router": "prompt"}]
    voters += [{"router": fixed(letters=1, people=0, sums=0), "weight": 9}]
    fond_of_letters = {"kind": "vote", "routers": voters}
    routed = route(plan(fond_of_letters, top_k=2, none=0.9), SUM, ROUTER)
    assert max(prior_of(routed), key=prior_of(routed).__getitem__) == "letters"
    assert routed.mixture is not None
    known = dict(routed.mixture.familiarity)
    assert known["letters"] < 0.9 <= known["sums"]
    alone = route(plan(fond_of_letters, top_k=1, none=0.9), SUM, ROUTER)
    assert prior_of(alone) == {"base": 1.0}


def test_many_experts_of_which_few_run() -> None:
    names = [f"expert{n}" for n in range(1000)]
    words = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)]
    router = PromptSimilarity(
        {name: [f"{word} again"] for name, word in zip(names, words, strict=True)}
    )
    value = {"recipe": "mixture", "experts": names, "router": "prompt", "top_k": 2}
    routed = route(parse_composition(value, known=names), f"say {words[77]}", router)
    assert prior_of(routed)["expert77"] > 0.5
    assert routed.rows == len(routed.members) == 2


@pytest.mark.parametrize(
    ("weigher", "experts", "name"),
    [(None, EXPERTS, "letters"), (ROUTER, ("sums", "base"), "base")],
)
def test_an_expert_without_examples(
    weigher: PromptSimilarity | None, experts: tuple[str, ...], name: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"knows no examples of '{name}'. Register the adap"):
        route(plan("prompt", experts), SUM, weigher)
    # Nothing is asked of it where the prior need not depend on the prompt.
    for router in ("confidence", "posterior"):
        routed = route(plan(router, experts), SUM, weigher)
        assert set(prior_of(routed).values()) == {1 / len(experts)}


def test_the_engine_gets_the_numbers_of_the_request() -> None:
    router = {
        "kind": "vote",
        "routers": [
            {"router": {"kind": "posterior", "forgetting": 0.9, "floor": 0.01, "prompt": False}},
            {"router": {"kind": "confidence", "temperature": 0.5}, "weight": 3},
        ],
    }
    assert engine_mixture(route(plan(router), "", None)) == MixtureParameters(
        fixed=0,
        posterior=0.25,
        confidence=0.75,
        forgetting=0.9,
        floor=0.01,
        prompt=False,
        temperature=0.5,
    )
    assert engine_mixture(route(plan(), "", None)) == MixtureParameters()


def test_the_engine_gets_nothing_before_its_time() -> None:
    with pytest.raises(ValueError, match="has not been routed"):
        engine_mixture(plan())
    for other in (plan("gate"), parse_composition("base + sums", known=NAMES)):
        with pytest.raises(ValueError, match="is not a mixture of rows"):
            engine_mixture(route(other, "", None))


def test_a_switch_keeps_all_its_candidates() -> None:
    before = plan({"kind": "sequence", "at": "\n"}, ["sums", "letters", "sums"])
    routed = route(before, SUM, None)
    assert routed.members == before.members
    assert routed.candidates == ("sums", "letters", "sums")
    assert routed.mixture is not None
    assert routed.mixture.routed
