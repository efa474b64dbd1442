"""From a request that composes to the request that vLLM runs.

`model` may be the base, an adapter, a stored composition or a formula; the field `composition`
takes everything else. The outcome names one model of vLLM's and carries the compiled plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters import Catalogue
from composer.compiled import CompiledPlan, LoadedAdapter, Row
from composer.errors import (
    CompositionSchemaError,
    FormulaSyntaxError,
    UnknownModelError,
    UnsupportedError,
    quoted,
)
from composer.plan import BASE, Limits, Plan
from composer.prompts import RequestPrompt
from composer.wire import parse_composition
from server.capacity import check_group
from server.engine import Body, Engine, Kind, Tokens
from server.members import member_tokens
from server.rewrite import Decoration
from server.store import CompositionStore

FIELD = "composition"
"""The field of the request, which vLLM never sees."""

_FORMULA_CHARACTERS = frozenset(" +*()'")  # names may hold - and /


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of a request: the body for vLLM, None for the very bytes that came."""

    body: Body | None
    decoration: Decoration


class Resolver:
    """Binds names to what is served here."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, store: CompositionStore, limits: Limits
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._store = store
        self._limits = limits

    @property
    def member_names(self) -> tuple[str, ...]:
        """What members may be called."""
        return (BASE, *self._catalogue.names())

    def parse(self, composition: object, param: str = FIELD) -> Plan:
        """Read a composition. Raises `CompositionError`."""
        return parse_composition(
            composition, known=self.member_names, limits=self._limits, param=param
        )

    async def resolve(self, kind: Kind, body: Body) -> Resolution | None:
        """What becomes of the request; None for an ordinary one, which vLLM gets as it came.

        Raises:
            CompositionError: the composition cannot be computed.
            RefusedError: vLLM refuses the request.
        """
        model, composition = body.get("model"), body.get(FIELD)
        if model is not None and not isinstance(model, str):
            return None
        asked = model or self._engine.base_names[0]
        if composition is None:
            if asked in self._engine.base_names:
                return None
            if asked in self._catalogue.names():
                return Resolution(None, Decoration(asked, None))
            plan = self._named(asked)
        else:
            if asked not in self._engine.base_names:
                raise CompositionSchemaError(
                    f"the request has a composition and the model {quoted(asked)}. "
                    f"With a composition, leave model out or set it to '{BASE}'.",
                    param="model",
                )
            plan = self.parse(composition)
        decoration = Decoration(asked, {"plan": plan.to_dict(), "rows": plan.rows})
        return Resolution(await self._rewrite(kind, body, plan), decoration)

    def _named(self, model: str) -> Plan:
        """The plan that a `model` stands for: a stored composition or a formula."""
        if model in self._store:
            return self.parse(self._store.get(model), param="model")
        try:
            return self.parse(model, param="model")
        except (FormulaSyntaxError, UnknownModelError):
            if _FORMULA_CHARACTERS.isdisjoint(model):  # a name, not a formula: say so
                known = (*self._engine.base_names, *self.member_names, *self._store.names())
                raise UnknownModelError(model, set(known), param="model") from None
            raise

    async def _rewrite(self, kind: Kind, body: Body, plan: Plan) -> Body:
        rewritten = {k: v for k, v in body.items() if k != FIELD}
        leader = self._adapter(plan.members[plan.leader].model)
        rewritten["model"] = leader.name if leader else self._engine.base_names[0]
        if plan.is_plain:
            return rewritten
        compiled = await self._compile(kind, rewritten, plan)
        rewritten["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), **compiled.to_extra_args()}
        return rewritten

    async def _compile(self, kind: Kind, body: Body, plan: Plan) -> CompiledPlan:
        """Bind the members to adapters and tokens, and see that the group can run."""
        rendered = await self._engine.open(kind, body)
        request = max(rendered.prompts, key=len)
        if len(rendered.prompts) > 1 and not _reads_request_only(plan):
            raise UnsupportedError(
                f"the request has {len(rendered.prompts)} prompts, and a member reads a prompt "
                "of its own. Send the prompts one by one.",
                param="prompt",
            )
        prompts: list[Tokens | None] = [
            await member_tokens(self._engine, kind, body, member, request)
            for member in plan.members
        ]
        adapters = [self._adapter(member.model) for member in plan.members]
        check_group(
            plan.members,
            [len(request if prompt is None else prompt) for prompt in prompts],
            len({adapter for adapter in adapters if adapter is not None}),
            rendered.max_tokens,
            self._engine.capacity,
        )
        rows = zip(plan.weights, adapters, prompts, strict=True)
        return CompiledPlan(tuple(Row(*row) for row in rows), plan.filters)

    def _adapter(self, model: str) -> LoadedAdapter | None:
        """The adapter as the engine knows it; None for the base."""
        if model == BASE:
            return None
        generation = self._catalogue.get(model)
        if generation is None:
            raise UnknownModelError(model, self.member_names, param=FIELD)
        return LoadedAdapter(generation.engine_name, generation.id, str(generation.path))


def _reads_request_only(plan: Plan) -> bool:
    return all(isinstance(member.prompt, RequestPrompt) for member in plan.members)
