"""Mixtures as requests write them, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from composer.mixtures.specs import MixturePlan
from composer.plan import Limits, Plan
from composer.request import parse_composition

NAMES = ("base", "chat", "count", "velan")
EXPERTS = ("velan", "base", "chat")
WEIGHTS = {"velan": 1, "base": 2, "chat": 5}


def read(
    router: object = None,
    experts: Sequence[str] = EXPERTS,
    limits: Limits | None = None,
    **fields: Any,
) -> Plan:
    value = {"recipe": "mixture", "experts": experts} | fields
    if router is not None:
        value["router"] = router
    value = json.loads(json.dumps(value))  # as it arrives
    return parse_composition(value, known=NAMES, limits=limits or Limits())


def mixture(*args: Any, **fields: Any) -> MixturePlan:
    found = read(*args, **fields).mixture
    assert found is not None
    return found


def vote(*voters: tuple[object, float]) -> dict[str, Any]:
    return {"kind": "vote", "routers": [{"router": r, "weight": w} for r, w in voters]}


def prior(**router: Any) -> dict[str, Any]:
    return {"kind": "posterior", "prior": router}
