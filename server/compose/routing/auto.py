"""Which experts answer a request, by the examples and gates of this server and by the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from adapters import Profile, Registry
from composer.errors import UnsupportedError
from composer.mixtures.encoded import EncodedSimilarity, Encoder
from composer.mixtures.route import route
from composer.mixtures.specs import GateSpec, WeightedMixtureSpec
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Plan
from server.auth.keys import Key
from server.compose.routing.gates import Gates
from server.compose.routing.prompt_text import prompt_text
from server.engine.port import Body, Engine, Kind
from server.option_values import MIXTURE_OPTIONS

T = TypeVar("T")
Index = PromptSimilarity | EncodedSimilarity
Examples = dict[str, Sequence[str]]

_INLINE_S = 0.002
"""Longest comparison of a text with examples that may hold up the event loop."""

AUTO = "auto"
"""The model that stands for the default router over all adapters that it may choose."""


class Routing:
    """The examples, gates and adapters that routers choose by, as they are at any moment."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        gates: Gates,
        profiles: Mapping[str, Profile],
        default_router: Mapping[str, object],
        encoder: Encoder | None = None,
    ) -> None:
        """Build the routing of one server.

        Args:
            engine: decodes prompts of token ids.
            registry: the adapters that are served, and their profiles.
            gates: of the command line.
            profiles: of the base model and of auxiliary models.
            default_router: router of `auto`, with `top_k` and `explain` of its mixture.
            encoder: compares prompts with examples, instead of TF-IDF; it may block.
        """
        self.gates = gates
        self.default_router = default_router
        self._engine = engine
        self._registry = registry
        self._model_examples = {name: p.texts for name, p in profiles.items() if p.texts}
        self._examples_at: tuple[int, Examples] = (-1, {})
        self._similarity: tuple[Examples, Index] | None = None
        self._encoder = encoder
        self._building = asyncio.Lock()

    # ---- auto

    @property
    def changes(self) -> int:
        """How often the adapters to choose from have changed."""
        return self._registry.changes

    @property
    def serves_auto(self) -> bool:
        """Whether the default router has anything to choose from."""
        return self.default_router["kind"] == "gate" or bool(self._examples())

    def auto(self, key: Key) -> Body:
        """Return the composition that `model: "auto"` stands for.

        Raises:
            UnsupportedError: there is no adapter to choose from.
        """
        router = dict(self.default_router)
        options = {name: router.pop(name) for name in MIXTURE_OPTIONS if name in router}
        experts = self._auto_experts(router, key)
        if not experts:
            raise UnsupportedError(
                f"the model '{AUTO}' has no adapter to choose from. An adapter is chosen by its "
                "examples or its description: publish it with them, give them to it with "
                "'composer adapters profile', or start the server with --examples NAME=FILE. Its "
                "policy must allow compositions and this API key.",
                param="model",
            )
        top_k = options.get("top_k")
        if isinstance(top_k, int):
            options["top_k"] = min(top_k, len(experts))
        return {"recipe": "mixture", "experts": experts, "router": router, **options}

    def _auto_experts(self, router: Mapping[str, object], key: Key) -> list[str]:
        if router["kind"] == "gate":  # a gate chooses among the adapters of its training
            name = router.get("name")
            names = self.gates.get(name if isinstance(name, str) else None).gate.classes
        else:
            names = tuple(self._examples())
        return [name for name in names if self._is_allowed(name, key)]

    def _is_allowed(self, name: str, key: Key) -> bool:
        if not key.may_use(name):
            return False
        served = self._registry.get(name)
        if served is None:  # a model, or an adapter of a gate that is retired: see `settle`
            return True
        return served.policy.compositions and served.policy.allows_key(key.secret)

    # ---- one request

    async def settle(self, kind: Kind, body: Body, plan: Plan) -> tuple[Plan, tuple[str, ...]]:
        """Return the plan of the experts that run, with their prior as weights.

        The second value names experts of a gate that are not served any more.

        Raises:
            CompositionError: a router needs examples or a gate that this server does not have.
        """
        if plan.mixture is None:
            return plan, ()
        missing: tuple[str, ...] = ()
        router = plan.mixture.router
        if isinstance(router, GateSpec):
            plan, missing = self.gates.settle(plan, router, self._digests())
        reads_text = plan.mixture is not None and plan.mixture.reads_text
        similarity = await self.index() if reads_text else None
        text = ""
        if reads_text and plan.mixture is not None:
            try:
                text = prompt_text(self._engine, kind, body)
            except UnsupportedError:  # there are several prompts
                if plan.mixture.needs_examples:
                    raise
                similarity = None
        function = partial(route, plan, text, similarity)
        return await self._compute(function, similarity, text, _compared(plan)), missing

    async def start_expert(self, kind: Kind, body: Body, router: GateSpec) -> str:
        """Return the expert that reads the prompt.

        The request may name it; otherwise it is the one whose examples are most similar to the
        prompt, or the first one if an expert has no examples.
        """
        if router.start is not None:
            return router.start
        similarity = await self.index()
        if not similarity.names.issuperset(router.experts):
            return router.experts[0]
        text = prompt_text(self._engine, kind, body)
        function = partial(similarity.weights, text, names=router.experts)
        weights = await self._compute(function, similarity, text)
        return max(router.experts, key=lambda name: weights[name])

    def limit_experts(self, plan: Plan, max_experts: int) -> Plan:
        """Return a plan that runs at most `max_experts`, if it is a weighted mixture, and never the
        base in their place."""
        mixture = plan.mixture
        if mixture is None or not isinstance(mixture.router, WeightedMixtureSpec):
            return plan
        top_k = min(max_experts, len(plan.members))
        return replace(plan, mixture=replace(mixture, top_k=top_k, none=None))

    # ---- examples and adapters

    async def _compute(
        self, function: Callable[[], T], index: Index | None, text: str, experts: int = 0
    ) -> T:
        """Return what a function returns that weighs a text, and compares it with so many experts;
        run it in a thread if it may take long."""
        if index is None or index.seconds(text, experts) <= _INLINE_S:
            return function()
        return await run_in_threadpool(function)

    async def index(self) -> Index:
        """Return the index of all examples; build it in a thread if examples changed."""
        examples = self._examples()
        if self._similarity is not None and self._similarity[0] is examples:
            return self._similarity[1]
        async with self._building:  # once, however many requests wait for it
            examples = self._examples()
            before, index = self._similarity or ({}, None)
            if index is None or before != examples:
                index = await run_in_threadpool(self._indexed, examples, index)
            self._similarity = examples, index
            return index

    def _indexed(self, examples: Examples, before: Index | None) -> Index:
        if self._encoder is None:
            return PromptSimilarity(
                examples, before if isinstance(before, PromptSimilarity) else None
            )
        return EncodedSimilarity(
            self._encoder, examples, before if isinstance(before, EncodedSimilarity) else None
        )

    def _examples(self) -> Examples:
        """Return the examples by name; the same object until an adapter changes."""
        changes, examples = self._examples_at
        if changes == self._registry.changes:
            return examples
        examples = dict(self._model_examples)
        for alias in self._registry.names():
            served = self._registry.get(alias)
            if served is not None and served.profile.texts:
                examples[alias] = served.profile.texts
        self._examples_at = self._registry.changes, examples
        return examples

    def _digests(self) -> dict[str, str | None]:
        adapters = {alias: self._registry.get(alias) for alias in self._registry}
        return {
            alias: served.generation.digest
            for alias, served in adapters.items()
            if served is not None
        }


def _compared(plan: Plan) -> int:
    """Return with how many experts the text of a request is compared one by one."""
    if plan.mixture is None or plan.mixture.none is None:
        return 0
    return min(plan.mixture.top_k or len(plan.members), len(plan.members))
