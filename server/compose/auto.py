"""Which experts answer a request: examples and gates of this server, and what the prompt says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from adapters import Profile, Registry
from composer.errors import UnsupportedError
from composer.mixtures.route import route
from composer.mixtures.specs import GateSpec, WeightedMixtureSpec
from composer.mixtures.tfidf import PromptSimilarity
from composer.plan import Plan
from server.auth.keys import Key
from server.compose.gates import Gates
from server.engine.port import Body, Engine, Kind, Tokens
from server.settings import MIXTURE_OPTIONS

_QUICK_CHARACTERS = 16 * 1024
"""A text up to this length is compared with the examples within a few milliseconds."""

AUTO = "auto"
"""The model that stands for the server's default router over all adapters that it may choose."""


class Routing:
    """What the routers of this server know, as it is at any moment."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        gates: Gates,
        models: Mapping[str, Profile],
        default: Mapping[str, object],
    ) -> None:
        """`models`: profiles of the base and of auxiliary models. `default`: the router of `auto`,
        with `top_k` and `explain` of the mixture among its fields."""
        self.gates = gates
        self._engine = engine
        self._registry = registry
        self._models = {name: one.texts for name, one in models.items() if one.texts}
        self.default = default
        self._built: tuple[dict[str, Sequence[str]], PromptSimilarity] | None = None

    # ---- auto

    @property
    def serves_auto(self) -> bool:
        """Whether anything can be routed to."""
        return self.default["kind"] == "gate" or bool(self._texts())

    def auto(self, key: Key) -> Body:
        """The composition that `model: "auto"` stands for.

        Raises:
            UnsupportedError: there is no adapter to choose from.
        """
        router = dict(self.default)
        options = {name: router.pop(name) for name in MIXTURE_OPTIONS if name in router}
        experts = self._routable(router, key)
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

    def _routable(self, router: Mapping[str, object], key: Key) -> list[str]:
        if router["kind"] == "gate":  # it knows its adapters from training
            name = router.get("name")
            known = self.gates.get(name if isinstance(name, str) else None).gate.classes
        else:
            known = tuple(self._texts())
        return [name for name in known if self._allowed(name, key)]

    def _allowed(self, name: str, key: Key) -> bool:
        if not key.may_use(name):
            return False
        served = self._registry.get(name)
        if served is None:  # a model; or an adapter of a gate that is gone, which `settle` says
            return True
        return served.policy.compositions and served.policy.allows_key(key.secret)

    # ---- one request

    async def settle(self, kind: Kind, body: Body, plan: Plan) -> tuple[Plan, tuple[str, ...]]:
        """The plan for this request: only the experts that run, with the prior that they start
        from; and the experts of a gate that are gone.

        Raises:
            CompositionError: a router needs examples, or a gate, that this server has not.
        """
        if plan.mixture is None:
            return plan, ()
        missing: tuple[str, ...] = ()
        router = plan.mixture.router
        if isinstance(router, GateSpec):
            plan, missing = self.gates.settle(plan, router, self._digests())
        weigher = await self._weigher() if plan.mixture and plan.mixture.reads_text else None
        text = self._text(kind, body) if weigher is not None else ""
        if len(text) <= _QUICK_CHARACTERS:
            return route(plan, text, weigher), missing
        return await run_in_threadpool(route, plan, text, weigher), missing

    async def start(self, kind: Kind, body: Body, router: GateSpec) -> str:
        """The expert that reads the prompt: as the request says, or else the one whose examples
        look most like it, or else the first."""
        if router.start is not None:
            return router.start
        weigher = await self._weigher()
        if not weigher.names.issuperset(router.experts):
            return router.experts[0]
        weights = weigher.weights(self._text(kind, body), names=router.experts)
        return max(router.experts, key=lambda name: weights[name])

    def best(self, plan: Plan, most: int) -> Plan:
        """The plan with at most `most` experts, if it is one that can do with fewer."""
        mixture = plan.mixture
        if mixture is None or not isinstance(mixture.router, WeightedMixtureSpec):
            return plan
        return replace(plan, mixture=replace(mixture, top_k=min(most, len(plan.members))))

    # ---- what it is decided by

    async def _weigher(self) -> PromptSimilarity:
        """Built again when examples have changed, beside the requests: there may be many."""
        texts = self._texts()
        if self._built is None or self._built[0] != texts:
            self._built = texts, await run_in_threadpool(PromptSimilarity, texts)
        return self._built[1]

    def _texts(self) -> dict[str, Sequence[str]]:
        texts: dict[str, Sequence[str]] = dict(self._models)
        for alias in self._registry.names():
            served = self._registry.get(alias)
            if served is not None and served.profile.texts:
                texts[alias] = served.profile.texts
        return texts

    def _digests(self) -> dict[str, str | None]:
        found = {alias: self._registry.get(alias) for alias in self._registry}
        return {alias: one.generation.digest for alias, one in found.items() if one is not None}

    def _text(self, kind: Kind, body: Body) -> str:
        """What the request asks: the last message of the user, or the prompt.

        What is not well formed counts as empty: vLLM refuses it afterwards, in its own words.

        Raises:
            UnsupportedError: there are several prompts, which may need different experts.
        """
        if kind is not Kind.COMPLETION:
            return _question(body.get("input" if kind is Kind.RESPONSES else "messages"))
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            [prompt] = prompt
        if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
            raise UnsupportedError(
                f"the request has {len(prompt)} prompts, and a router chooses by the prompt. "
                "Send the prompts one by one.",
                param="prompt",
            )
        if isinstance(prompt, list):
            return self._decoded(tuple(prompt))
        return prompt if isinstance(prompt, str) else ""

    def _decoded(self, tokens: Tokens) -> str:
        try:
            self._engine.check_tokens(tokens)
        except ValueError:
            return ""
        return self._engine.detokenize(tokens)


def _question(messages: object) -> str:
    """The text of the last message of the user; of all messages where there is none.

    Content parts of all three protocols with messages hold their text in `text`.
    """
    if isinstance(messages, str):  # the short form of /v1/responses
        return messages
    if not isinstance(messages, list):
        return ""
    spoken = [m for m in messages if isinstance(m, dict)]
    asked = [m for m in spoken if m.get("role") == "user"][-1:] or spoken
    return "\n".join(_content(message.get("content")) for message in asked)


def _content(content: object) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""
