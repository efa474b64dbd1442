"""Which experts a router has, without an engine: `auto`, gates, and what is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from adapters import Policy, Profile, Registry
from composer.errors import CompositionError, UnsupportedError
from composer.mixtures.gate_file import Gate, GateError
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Limits, Plan
from composer.request import parse_composition
from server.auth.keys import ANONYMOUS
from server.compose.access import MemberNames
from server.compose.routing.auto import Routing
from server.compose.routing.gates import Gates, LoadedGate
from server.engine.port import Engine, Kind

ADDS, LIVES = ("What is 1 + 2?", "What is 30 + 4?"), ("Where does Ann live?",)
OPEN = Policy()


def chat(text: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def gate(name: str, *classes: str) -> LoadedGate:
    weight, bias = np.zeros((len(classes), 4), np.float32), np.zeros(len(classes), np.float32)
    digests = {one: None if one == "base" else f"{one:x<64}" for one in classes}
    return LoadedGate(name, Path("/gate"), Gate(classes, weight, bias, digests, "f" * 64))


def registry(**served: tuple[Policy, Profile]) -> Registry:
    """Adapters, each under the digest that `gate` was trained for."""
    found = Registry(lambda _: None)
    for alias, (policy, profile) in served.items():
        with found.prepare(alias, f"{alias:x<64}", Path("/"), rank=8) as lease:
            found.point(lease.generations[alias], policy, 1, profile)
    return found


def routing(
    adapters: Registry,
    *gates: LoadedGate,
    default: Mapping[str, object] | None = None,
    models: Mapping[str, Profile] | None = None,
) -> Routing:
    nothing_running = cast(Engine, None)  # texts are asked for here, not tokens
    router = default or {"kind": "prompt", "top_k": 1}
    return Routing(nothing_running, adapters, Gates(gates), models or {}, router)


def settled(one: Routing, composition: object, question: str) -> tuple[Plan, tuple[str, ...]]:
    names = {*one.gates.classes, "base", "adds", "lives"}
    plan = parse_composition(composition, known=names)
    return asyncio.run(one.settle(Kind.CHAT, chat(question), plan))


@pytest.fixture
def adapters() -> Registry:
    return registry(
        adds=(OPEN, Profile(examples=ADDS)),
        lives=(OPEN, Profile(description="where somebody lives")),
        mute=(OPEN, Profile(examples=())),
        alone=(Policy(compositions=False), Profile(examples=ADDS)),
        secret=(Policy(keys=()), Profile(examples=ADDS)),
    )


def test_auto_takes_what_has_texts_and_is_allowed(adapters: Registry) -> None:
    one = routing(adapters)
    assert one.serves_auto
    assert one.auto(ANONYMOUS) == {
        "recipe": "mixture",
        "experts": ["adds", "lives"],
        "router": {"kind": "prompt"},
        "top_k": 1,
    }
    both = routing(adapters, default={"kind": "prompt", "top_k": 9, "explain": True})
    assert both.auto(ANONYMOUS)["top_k"] == 2, "of as many as there are"
    assert both.auto(ANONYMOUS)["explain"] is True
    models = routing(registry(), models={"base": Profile(examples=LIVES), "small": Profile()})
    assert models.auto(ANONYMOUS)["experts"] == ["base"]


def test_auto_with_nothing_to_choose_from() -> None:
    one = routing(registry(mute=(OPEN, Profile())))
    assert not one.serves_auto
    with pytest.raises(UnsupportedError, match="--examples"):
        one.auto(ANONYMOUS)
    with pytest.raises(GateError, match="--router"):
        routing(registry(), default={"kind": "gate"}).auto(ANONYMOUS)


def test_auto_by_a_gate_takes_its_classes(adapters: Registry) -> None:
    trained = gate("tasks", "base", "mute", "alone", "secret", "gone")
    one = routing(adapters, trained, default={"kind": "gate", "missing": "remaining"})
    assert one.serves_auto
    composition = one.auto(ANONYMOUS)
    assert composition["experts"] == ["base", "mute", "gone"]
    plan, missing = settled(one, composition, "x")
    assert (plan.candidates, missing) == (("base", "mute"), ("gone",))
    assert sum(plan.weights) == pytest.approx(1)


@pytest.mark.parametrize(
    ("question", "expert"),
    [
        ("What is 7 + 9?", "adds"),
        ("Tell me where somebody is", "lives"),
        ([{"type": "text", "text": "What is 7 + 9?"}], "adds"),
    ],
)
def test_the_nearest_expert(adapters: Registry, question: str, expert: str) -> None:
    one = routing(adapters)
    plan, _ = settled(one, one.auto(ANONYMOUS), question)
    assert plan.candidates == (expert,)
    assert plan.is_plain


def test_new_examples_count_at_once(adapters: Registry) -> None:
    one = routing(adapters)
    rounds = [("Sing a song", "Walk home", "adds"), ("Walk home", "Sing a song", "lives")]
    for version, (adds, lives, expert) in enumerate(rounds, start=2):
        for alias, text in (("adds", adds), ("lives", lives)):
            with adapters.lease([alias]) as lease:
                adapters.point(lease.generations[alias], OPEN, version, Profile(examples=(text,)))
        plan, _ = settled(one, one.auto(ANONYMOUS), "Sing")
        assert plan.candidates == (expert,)


@pytest.mark.parametrize(
    ("question", "experts", "waits"),
    [("Sing", 2, False), ("Sing " * 4000, 2, True), ("Sing", 200, True)],
)
def test_a_choice_that_takes_long_does_not_hold_up_the_event_loop(
    question: str, experts: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = {f"e{n}": (OPEN, Profile(examples=("Sing", f"Walk {n}"))) for n in range(experts)}
    default = {"kind": "prompt", "top_k": experts, "none": True}
    one = routing(registry(**profiles), default=default)
    used: list[threading.Thread] = []
    familiarity = PromptSimilarity.familiarity

    def watched(self: PromptSimilarity, text: str, names: Iterable[str]) -> dict[str, float]:
        used.append(threading.current_thread())
        return familiarity(self, text, names)

    monkeypatch.setattr(PromptSimilarity, "familiarity", watched)
    limits = Limits(max_members=experts)
    plan = parse_composition(one.auto(ANONYMOUS), known=set(profiles), limits=limits)
    asyncio.run(one.settle(Kind.CHAT, chat(question), plan))
    [thread] = used
    assert (thread is not threading.current_thread()) == waits


@pytest.mark.parametrize("body", [{}, {"messages": 3}, {"messages": [7]}, {"messages": [{}]}])
def test_a_malformed_conversation_is_left_to_vllm(adapters: Registry, body: Any) -> None:
    one = routing(adapters)
    plan = parse_composition(one.auto(ANONYMOUS), known={"adds", "lives"})
    assert asyncio.run(one.settle(Kind.CHAT, body, plan))[0].rows == 1


def test_the_expert_that_starts(adapters: Registry) -> None:
    one = routing(adapters, gate("tasks", "base", "adds", "lives"))

    def start(experts: list[str], question: str = "What is 7 + 9?", **router: str) -> str:
        composition = {
            "recipe": "mixture",
            "experts": experts,
            "router": {"kind": "gate", **router},
        }
        plan, _ = settled(one, composition, question)
        assert plan.mixture is not None
        return asyncio.run(
            one.start_expert(Kind.CHAT, chat(question), cast(Any, plan.mixture.router))
        )

    assert start(["lives", "adds"]) == "adds"
    assert start(["lives", "adds"], "where somebody lives") == "lives"
    assert start(["lives", "adds"], start="lives") == "lives"
    assert start(["lives", "base", "adds"]) == "lives", "the base has no examples: the first"


def test_which_gate(adapters: Registry) -> None:
    one, two = gate("one", "base", "adds"), gate("two", "base", "lives")
    assert Gates([one]).get(None) is one
    gates = Gates([one, two])
    assert gates.get("two") is two
    assert gates.classes == {"base", "adds", "lives"}
    with pytest.raises(GateError, match=r"several.*'one', 'two'"):
        gates.get(None)
    with pytest.raises(GateError, match="none is called 'three'"):
        gates.get("three")


def test_a_replaced_adapter_is_missing(adapters: Registry) -> None:
    with adapters.prepare("adds", "0" * 64, Path("/"), rank=8) as lease:
        adapters.point(lease.generations["adds"], OPEN, 2)
    one = routing(adapters, gate("tasks", "base", "adds", "lives"))
    router: dict[str, str] = {"kind": "gate", "start": "adds"}
    composition = {"recipe": "mixture", "experts": ["adds", "base", "lives"], "router": router}
    with pytest.raises(CompositionError, match="'adds'"):
        settled(one, composition, "x")
    router["missing"] = "remaining"
    plan, missing = settled(one, composition, "x")
    assert missing == ("adds",)
    assert plan.candidates == ("base", "lives")
    assert plan.mixture is not None
    assert plan.mixture.router.start is None  # type: ignore[union-attr]
    # What the request does not name does not matter.
    others = composition | {"experts": ["base", "lives"], "router": "gate"}
    assert settled(one, others, "x")[1] == ()


def test_names_of_members(adapters: Registry) -> None:
    names = MemberNames(adapters, ["small"], {"gone", "adds"})
    assert sorted(names) == sorted({*adapters, "base", "small", "gone"})
    assert len(names) == 8
    assert "gone" in names
    assert "nobody" not in names
