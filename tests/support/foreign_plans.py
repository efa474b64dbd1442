"""What may stand where the engine expects an engine plan: any JSON, and plans with a fault."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from composer.engine_plan import (
    ENGINE_ARG,
    EnginePlan,
    LoadedAdapter,
    MixtureParameters,
    Row,
    Switch,
)
from composer.filters import Filter, FilterKind

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([2**63, 10**400, 1e308, -1e308, float("nan"), float("inf"), ""])
    | st.floats()
    | st.text(max_size=6)
)

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)

_ONE = LoadedAdapter("one@0", 9001, "/one")
_PLANS = tuple(
    json.loads(plan.to_extra_args()[ENGINE_ARG])
    for plan in (
        EnginePlan((Row(1.0), Row(-0.5, _ONE, (5, 6)))),
        EnginePlan((Row(1.0), Row(0.5)), (Filter(FilterKind.TOP_P, 1, 0.9),), report_id="r"),
        EnginePlan((Row(0.5), Row(0.5)), (), MixtureParameters(0.0, posterior=1.0), explain=True),
        EnginePlan(
            (Row(1.0), Row(0.5)), (Filter(FilterKind.SOFT_TOP_K, 0, 5.0),), log_softmax=True
        ),
        EnginePlan((Row(1.0),), (), None, Switch((None, _ONE), triggers=(5,))),
        EnginePlan((Row(1.0),), (), None, Switch((None, _ONE), 0, "gate", (0, 1))),
    )
)


def _paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a JSON value."""
    keys: Any = ()
    if isinstance(value, dict):
        keys = value
    elif isinstance(value, list):
        keys = range(len(value))
    return [path for key in keys for path in [(*before, key), *_paths(value[key], (*before, key))]]


@st.composite
def mutated_plans(draw: st.DrawFn) -> Any:
    """A plan with some of its parts replaced by other JSON, or gone."""
    plan = copy.deepcopy(draw(st.sampled_from(_PLANS)))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(_paths(plan)))
        place = plan
        for key in way:
            place = place[key]
        if draw(st.booleans()):
            place[last] = draw(JSON_VALUES)
        else:
            del place[last]
        if not _paths(plan):
            break
    return plan
