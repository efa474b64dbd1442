"""How often the prompt router picks the adapter that a prompt is for, and how long it takes."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import cast

from adapters import Policy, Profile, Registry
from bench.claim import Result
from bench.measure import show, table
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Plan
from composer.request import parse_composition
from server.auth.keys import ANONYMOUS
from server.compose.routing.auto import Routing
from server.compose.routing.gates import Gates
from server.engine.port import Body, Engine, Kind
from server.server_options import DEFAULT_ROUTER
from zoo.prompts import COUNT, EXAMPLES
from zoo.tasks import tasks

HELD_OUT = 200  # prompts of each task
TEMPERATURE = 0.1
MANY = 1000  # adapters
QUESTIONS = 200
MILLISECONDS = 2.0
"""CPU time in which the router must choose among `MANY` adapters."""


def measure() -> Result:
    """Return the share of held-out prompts that `auto` gives to their own adapter.

    Adapters that answer the same questions in another manner are not among the candidates. The
    claim also needs a choice among `MANY` adapters within `MILLISECONDS`.
    """
    texts = {name: path.read_text(encoding="utf-8").splitlines() for name, path in EXAMPLES.items()}
    router = PromptSimilarity(texts)
    right, rows = 0, []
    for name in EXAMPLES:
        chosen, weights = [], []
        for example in tasks()[name].evaluation(HELD_OUT):
            prompt = example.messages[-1]["content"]
            shares = router.weights(prompt, TEMPERATURE)
            nearest = max(shares, key=shares.__getitem__)
            familiar = router.familiarity(prompt, [nearest])[nearest] >= router.none_below
            chosen.append(nearest if familiar else "base")
            weights.append(shares[name])
        right += chosen.count(name)
        others = sorted({*chosen} - {name})
        rows.append(
            (
                name,
                f"{chosen.count(name) / HELD_OUT:.1%}",
                f"{sum(weights) / HELD_OUT:.3f}",
                ", ".join(others) or "-",
            )
        )
    show(f"{COUNT} examples of each adapter, {HELD_OUT} held-out prompts of each task:")
    show(table(("adapter", "chosen for its own", "mean weight", "taken for"), rows))
    milliseconds = asyncio.run(choose_among_many())
    return Result(right / (HELD_OUT * len(EXAMPLES)), holds=milliseconds <= MILLISECONDS)


async def choose_among_many() -> float:
    """Print what examples of `MANY` adapters cost, and return CPU milliseconds per choice."""
    rng = random.Random(0)
    texts = {f"adapter{k}": tuple(_text(k, rng) for _ in range(COUNT)) for k in range(MANY)}
    registry = Registry(lambda _: None)
    for number, (name, examples) in enumerate(texts.items()):
        with registry.prepare(name, f"{number:064x}", Path("/"), rank=8) as lease:
            profile = Profile(examples=examples)
            registry.point(lease.generations[name], Policy(), 1, profile)
    no_engine = cast(Engine, None)  # it decodes prompts of token ids, and these are texts
    routing = Routing(no_engine, registry, Gates(), {}, DEFAULT_ROUTER)
    plan = parse_composition(routing.auto(ANONYMOUS), known=list(texts))
    wall = time.perf_counter()
    await _chosen(routing, plan, _body(_text(0, rng)))
    first = time.perf_counter() - wall
    owners = [rng.randrange(MANY) for _ in range(QUESTIONS)]
    bodies = [_body(_text(owner, rng)) for owner in owners]
    start = time.process_time()
    chosen = [await _chosen(routing, plan, body) for body in bodies]
    milliseconds = (time.process_time() - start) / QUESTIONS * 1000
    name = "adapter0"
    changed = Profile(examples=tuple(_text(0, rng) for _ in range(COUNT)))
    with registry.lease([name]) as lease:
        registry.point(lease.generations[name], Policy(), 2, changed)
    wall = time.perf_counter()
    await _chosen(routing, plan, bodies[0])
    again = time.perf_counter() - wall
    right = sum(name == f"adapter{k}" for name, k in zip(chosen, owners, strict=True)) / QUESTIONS
    show(f"{MANY} adapters with {COUNT} examples each, {right:.0%} of {QUESTIONS} choices right:")
    cells = (f"{milliseconds:.2f}", f"{first:.2f}", f"{again:.2f}")
    show(table(("ms per choice", "s to index", "s after one adapter has changed"), [cells]))
    return milliseconds


async def _chosen(routing: Routing, plan: Plan, body: Body) -> str:
    settled, _ = await routing.settle(Kind.CHAT, body, plan)
    return settled.members[0].model


def _body(text: str) -> Body:
    return {"messages": [{"role": "user", "content": text}]}


def _text(adapter: int, rng: random.Random) -> str:
    """Return ten words: common ones, the most frequent ones most often, and three of an adapter."""
    common = [_word(min(int(rng.paretovariate(0.7)), 300)) for _ in range(7)]
    special = [_word((adapter + 100) * 30 + rng.randrange(30)) for _ in range(3)]
    return " ".join([*common, *special]) + "?"


def _word(number: int) -> str:
    """Return a word of letters, as the index reads all numbers as one."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
