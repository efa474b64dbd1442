"""The list of routers: documented, and shown by the README as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from composer.mixtures.routers import ROUTERS, RouterKind
from composer.mixtures.routers.__main__ import table
from composer.mixtures.routers.weighing import WEIGHING
from composer.mixtures.specs import Router, WeightedMixtureSpec

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_readme_shows_every_router_as_it_is() -> None:
    shown = README.read_text(encoding="utf-8").split("<!-- routers:", 1)[1]
    shown = shown.split("-->", 1)[1].split("<!-- /routers -->")[0]
    assert shown.strip() == table(), "paste what `python -m composer.mixtures.routers` prints"


def test_the_list() -> None:
    names = ["fixed", "prompt", "posterior", "confidence", "vote", "gate", "sequence"]
    assert [router.name for router in ROUTERS] == names


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)
def test_every_router_is_documented(router: RouterKind[Any, Router]) -> None:
    assert router.title
    paper = r'\w+ et al\. 20\d\d, "[^"]+", arXiv:\d{4}\.\d{5}'
    assert re.search(paper, router.citation) or router.citation.startswith("ours; ")
    assert router.fields.__doc__ == router.formula
    assert "|" not in router.formula  # it ends a cell of the README's table
    assert get_args(router.fields.model_fields["kind"].annotation) == (router.name,)


def test_the_routers_that_weigh_are_those_that_may_vote_and_the_vote() -> None:
    for router in ROUTERS:
        fields = router.fields(**{"kind": router.name, **router.example})
        spec = router.build(fields, ["arithmetic", "chat"])
        assert isinstance(spec, WeightedMixtureSpec) is (
            router in WEIGHING or router.name == "vote"
        )
