"""The list of routers is documented."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, get_args

import pytest

from composer.engine_plan import MixtureParameters
from composer.mixtures.routers import ROUTERS, RouterKind
from composer.mixtures.routers.weighing import WEIGHING
from composer.mixtures.specs import Router, WeightedMixtureSpec
from composer.reference import mixture_oracle
from composer.tensors import mixture_rules


def test_the_list() -> None:
    names = ["fixed", "prompt", "posterior", "confidence", "vote", "gate", "sequence"]
    assert [router.name for router in ROUTERS] == names


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)
def test_every_router_is_documented(router: RouterKind[Any, Router]) -> None:
    assert router.title
    paper = r'\w+ et al\. 20\d\d, "[^"]+", arXiv:\d{4}\.\d{5}'
    assert re.search(paper, router.citation) or router.citation.startswith("ours; ")
    assert router.fields.__doc__ == router.formula
    assert "|" not in router.formula  # it would end a cell of the table in docs/routing.md
    assert get_args(router.fields.model_fields["kind"].annotation) == (router.name,)


def test_the_routers_that_weigh_are_those_that_may_vote_and_the_vote() -> None:
    for router in ROUTERS:
        fields = router.fields(**{"kind": router.name, **router.example})
        spec = router.build(fields, ["arithmetic", "chat"])
        assert isinstance(spec, WeightedMixtureSpec) is (
            router in WEIGHING or router.name == "vote"
        )


def test_every_table_has_every_rule() -> None:
    """What a new rule needs: see the recipe in `composer.mixtures`."""
    rules = MixtureParameters.RULES
    assert rules.keys() == mixture_rules.RULES.keys() == mixture_oracle.RULES.keys()
    parameters = [name for names in rules.values() for name in names]
    declared = {field.name: field.default for field in dataclasses.fields(MixtureParameters)}
    assert sorted(declared) == sorted(["fixed", *rules, *parameters])
    routers = {router.name: router for router in WEIGHING}
    for rule, names in rules.items():
        of_rule = routers[rule].fields.model_fields
        assert of_rule.keys() == {"kind", "prior", *names}
        # Requests leave the prompt out unless they say otherwise; DEMix's formula has it.
        assert {name: of_rule[name].default for name in names} == {
            name: declared[name] and name != "prompt" for name in names
        }
