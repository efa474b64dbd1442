"""From a request that composes to the request that vLLM runs.

`model` may be the base, an adapter, a stored composition, a formula or `auto`; the field
`composition` takes everything else. The outcome names one model of vLLM's and carries the compiled
plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from adapters import Compositions, CompositionVersion, Generation, Lease, Registry, model_of
from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    FormulaSyntaxError,
    UnknownModelError,
    UnsupportedError,
    quoted,
)
from composer.fields import BASE
from composer.mixtures.gate_file import GateError
from composer.plan import Limits, Plan
from composer.request import parse_composition
from server.auth.keys import Key
from server.compose.access import FIELD, Access, MemberNames
from server.compose.auto import AUTO, Routing
from server.compose.compile import Binder, Bound
from server.compose.request_bounds import check_composed
from server.compose.response.response_fields import Decoration, Routed
from server.compose.response.router_report import RoutingReport
from server.compose.stored_compositions import is_for, is_private, sees
from server.engine.port import Body, Engine, Kind
from server.engine.residency import Loader
from server.request_record import PLAIN

COMPARE = "compare"
"""The field that asks for each expert alone as well."""

_FORMULA_CHARACTERS = frozenset(" +*()'")  # names may hold - and /


_ENGINE_NAME = re.compile(r"[^@]+@[0-9a-f]{12}")
"""How the engine calls a generation. Requests name aliases, which have policies."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of a request.

    body: as vLLM gets it.
    lease: its adapters stay loaded until the caller releases it.
    alone: the models that answer the same request, each on its own.
    composition, recipe: what was composed, as metrics say it.
    rows: of the engine's batch, for each answer.
    was_read: whether the body has been validated and tokenized.
    """

    body: Body
    decoration: Decoration
    lease: Lease
    alone: tuple[str, ...] = ()
    composition: str = PLAIN
    recipe: str = PLAIN
    rows: int = 1
    was_read: bool = False


class Resolver:
    """Binds names to what is served here."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        loader: Loader,
        store: Compositions,
        limits: Limits,
        routing: Routing,
        templates: Mapping[str, str | None],
    ) -> None:
        """`templates`: auxiliary models, and the chat templates of those that have their own."""
        self.member_names = MemberNames(registry, templates)
        self._access = Access(registry, loader, templates)
        self.routing = routing
        # Gates know adapters that are gone; whether that matters is for the request to say.
        self._with_gates = MemberNames(registry, templates, routing.gates.classes)
        self._binder = Binder(engine, routing, templates)
        self._engine = engine
        self._registry = registry
        self._store = store
        self._limits = limits

    def parse(self, composition: object, param: str = FIELD, key: Key | None = None) -> Plan:
        """Read a composition; with a key, one of what it may use. Raises `CompositionError`."""
        known = self._with_gates if _asks_gate(composition) else self.member_names
        known = known if key is None else known.of(key)
        return parse_composition(composition, known=known, limits=self._limits, param=param)

    async def resolve(self, kind: Kind | None, body: Body, key: Key) -> Resolution | None:
        """What becomes of the request; None for an ordinary one, which vLLM gets as it came.

        Args:
            kind: the route, where it is one that composes.
            body: the request.
            key: whose request it is.

        Raises:
            CompositionError: the composition cannot be computed.
            RefusedError: vLLM refuses the request.
            AdapterForbiddenError: the policy of an adapter is against it.
            AdapterUnavailableError: an adapter does not load.
        """
        model, composition = body.get("model"), body.get(FIELD)
        if model is not None and not isinstance(model, str):
            return None
        asked = model or self._engine.base_names[0]
        if kind is None or composition is None:
            self._check_may_ask(asked, key)
            if asked in self._engine.base_names:
                _refuse_compare(kind, body)
                return None
            if asked in self._registry and model_of(asked) is None:
                _refuse_compare(kind, body)
                return await self._alone(kind, body, asked, key)
            if kind is None:
                self._refuse_engine_name(asked, key)
                self._refuse_composition(asked, key)
                return None
            plan = self.plan_of(asked, key)
            stored = self._store.find(asked)
            if stored is not None and stored.owner != key.name:
                key = replace(key, models=None)  # whoever may use it may use it whole
        else:
            if asked not in self._engine.base_names:
                raise CompositionSchemaError(
                    f"the request has a composition and the model {quoted(asked)}. "
                    f"With a composition, leave model out or set it to '{BASE}'.",
                    param="model",
                )
            plan = self.parse(composition, key=key)
        try:
            if not kind.generates:
                return self._read_only(body, asked, plan, key)
            resolution = await self._composed(kind, body, asked, plan, key)
        except CompositionError as error:
            error.param = error.param or FIELD
            raise
        name, recipe = self._described(asked, composition)
        return replace(resolution, composition=name, recipe=recipe)

    def _described(self, asked: str, composition: object) -> tuple[str, str]:
        """Name and recipe of a composition, as metrics show them: from a bounded set."""
        if composition is not None:
            return FIELD, _recipe_of(composition)
        if asked in self._store:
            return asked, _recipe_of(self._store.get(asked))
        return (AUTO, "mixture") if asked == AUTO else ("formula", "sum")

    async def _alone(self, kind: Kind | None, body: Body, alias: str, key: Key) -> Resolution:
        """A request to one adapter, on any of vLLM's routes."""
        self._access.check(alias, key)
        if kind is Kind.RESPONSES:
            body = _unstored(body)
        lease = await self._access.lease({alias})
        told = _digests(lease) if kind is not None else None
        rewritten = body | {"model": lease.generations[alias].engine_name}
        return Resolution(rewritten, Decoration(alias, None, told, aliases=_aliases(lease)), lease)

    def _read_only(self, body: Body, asked: str, plan: Plan, key: Key) -> Resolution:
        """A request about the tokens of a prompt: the base reads it as every member does."""
        self._access.check_plan(plan, key)
        rewritten = _without_ours(body) | {"model": self._base}
        told = {"plan": plan.to_dict(), "rows": plan.rows}
        return Resolution(rewritten, Decoration(asked, told), self._registry.lease(()))

    async def _composed(
        self, kind: Kind, body: Body, asked: str, plan: Plan, key: Key
    ) -> Resolution:
        check_composed(body)
        if kind is Kind.RESPONSES:
            body = _unstored(body)
        settled, missing = await self._settle(kind, body, plan, key)
        alone = await self._compared(kind, body, plan) if _wants_compare(body) else ()
        self._access.check_plan(plan, key, missing)
        lease = await self._access.lease(
            {m.model for m in settled.members if m.model in self._registry}
        )
        try:
            rewritten, bound = await self._rewrite(kind, body, settled, lease.generations)
        except BaseException:
            lease.release()
            raise
        told = {"plan": settled.to_dict(), "rows": settled.rows}
        routed = self._routed(settled, bound, missing)
        decoration = Decoration(asked, told, _digests(lease), routed, aliases=_aliases(lease))
        rows = len(bound.compiled.rows) if bound is not None else 1
        was_read = bound is not None
        return Resolution(rewritten, decoration, lease, alone, rows=rows, was_read=was_read)

    async def _settle(
        self, kind: Kind, body: Body, plan: Plan, key: Key
    ) -> tuple[Plan, tuple[str, ...]]:
        """`Routing.settle`, whose errors name what a gate was trained for."""
        try:
            return await self.routing.settle(kind, body, plan)
        except GateError as error:
            if key.models is None:
                raise
            raise GateError(
                "the gate of this composition cannot choose among its experts. Ask the operator "
                "which ones it was trained for.",
                param=error.param,
            ) from error

    def _routed(self, plan: Plan, bound: Bound | None, missing: tuple[str, ...]) -> Routed | None:
        """What tells, after the answer, how it was routed; None for a sum."""
        if plan.mixture is None:
            return None
        names = [member.model for member in plan.members]
        prior = dict(zip(names, plan.weights, strict=True))
        report = RoutingReport(tuple(names), prior, missing=missing)
        if bound is not None:
            ticket, explain = bound.compiled.report, plan.mixture.explain
            report = replace(report, names=bound.names, ticket=ticket, explain=explain)

        async def routed(length: int | None) -> dict[str, Any]:
            return await report.told(self._engine, length)

        return routed

    async def _compared(self, kind: Kind, body: Body, plan: Plan) -> tuple[str, ...]:
        """The models to be compared: those of the composition, of many experts the best."""
        if body.get("stream"):
            raise UnsupportedError(
                f"'{COMPARE}' does not go with a stream. Leave one of them out.", param=COMPARE
            )
        best, _ = await self.routing.settle(
            kind, body, self.routing.best(plan, self._limits.max_members)
        )
        return tuple(dict.fromkeys(best.candidates))

    def plan_of(self, model: str, key: Key) -> Plan:
        """The plan that a `model` stands for: a stored composition, the default router or a
        formula.

        Raises:
            CompositionError: it is none of them.
        """
        self._check_may_ask(model, key)
        if (stored := self._store.find(model)) is not None:
            return self.stored_plan(stored, key, param="model")
        if model == AUTO:
            return self.parse(self.routing.auto(key), param="model")
        try:
            return self.parse(model, param="model", key=key)
        except (FormulaSyntaxError, UnknownModelError):
            if _FORMULA_CHARACTERS.isdisjoint(model):  # a name, not a formula: say so
                self._refuse_unknown(model, key)
            raise

    def allowed_plan(self, model: str, key: Key) -> Plan:
        """The plan that a `model` stands for, if the policies of its adapters let `key` ask it.

        Raises:
            CompositionError: `model` stands for nothing.
            AdapterForbiddenError: a policy is against it.
        """
        plan = self.plan_of(model, key)
        self._access.check_plan(plan, key)
        return plan

    def stored_plan(self, version: CompositionVersion, key: Key, param: str = FIELD) -> Plan:
        """The plan of a stored composition; prompts that the key must not see are hidden in it.

        Raises:
            CompositionError: it cannot be computed here, or not any more.
        """
        try:
            plan = self.parse(version.content, param=param)
        except UnknownModelError as error:  # names models, not prompts
            known = self.member_names.of(key)
            raise UnknownModelError(error.name, known, param=param) from error
        except CompositionError as error:
            if not is_private(version, key):
                raise
            raise CompositionSchemaError(
                f"the stored composition {quoted(version.name)} cannot be computed here now. Its "
                f"owner sees the reason: GET /v1/compositions/{version.name}.",
                param=param,
            ) from error
        return plan if sees(version, key) else plan.hidden()

    def _check_may_ask(self, model: str, key: Key) -> None:
        """Raise `UnknownModelError` where a name stands for what the key may not use."""
        name = BASE if model in self._engine.base_names else model
        stored = self._store.find(name)
        if stored is not None and is_for(stored, key):
            return
        named = stored is not None or name in self.member_names or name == AUTO
        if named and not key.may_use(name):
            self._refuse_unknown(model, key)

    def _refuse_unknown(self, model: str, key: Key) -> NoReturn:
        base = self._engine.base_names if key.may_use(BASE) else ()
        stored = [version.name for version in self._store.all() if is_for(version, key)]
        auto = (AUTO,) if self.routing.serves_auto and key.may_use(AUTO) else ()
        known = {*base, *self.member_names.of(key), *stored, *auto}
        raise UnknownModelError(model, known, param="model") from None

    def _refuse_composition(self, model: str, key: Key) -> None:
        """Raise `UnsupportedError` where a model is listed and its route only knows single ones."""
        try:
            self.plan_of(model, key)
        except CompositionError:  # vLLM says in its own words that there is no such model
            return
        raise UnsupportedError(
            f"{quoted(model)} is a composition, and this route does not compute any. Send the "
            f"request to one of {', '.join(kind for kind in Kind if kind.generates)}.",
            param="model",
        )

    def _refuse_engine_name(self, model: str, key: Key) -> None:
        if _ENGINE_NAME.fullmatch(model):
            self._refuse_unknown(model, key)

    async def check_readable(self, kind: Kind, body: Body) -> None:
        """Raise what answers a request that vLLM cannot read, if that is so."""
        try:
            await self._engine.open(kind, body)
        except UnsupportedError:  # valid, but for compositions
            return

    async def refusal(self, error: Exception) -> str | None:
        """Why a request fails with this error of vLLM's; None where that is not its own fault."""
        return await self._engine.refusal(error)

    # ---- the rewritten request

    async def _rewrite(
        self, kind: Kind, body: Body, plan: Plan, generations: Mapping[str, Generation]
    ) -> tuple[Body, Bound | None]:
        """The request for vLLM, and what of it is composed."""
        rewritten = _without_ours(body)
        name = plan.members[plan.leader].model
        generation = generations.get(name)
        if plan.is_plain and self._binder.model_of(name) is None:
            rewritten["model"] = generation.engine_name if generation else self._base
            return rewritten, None
        bound = await self._binder.bind(kind, rewritten | {"model": self._base}, plan, generations)
        leader = bound.compiled.rows[0].adapter
        rewritten["model"] = leader.name if leader else self._base
        extra = bound.compiled.to_extra_args()
        rewritten["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), **extra}
        return rewritten, bound

    @property
    def _base(self) -> str:
        return self._engine.base_names[0]


def _recipe_of(composition: object) -> str:
    """The recipe of a composition that has been read: a formula and a list of members are sums."""
    recipe = composition.get("recipe") if isinstance(composition, Mapping) else None
    return recipe if isinstance(recipe, str) else "sum"


def _asks_gate(composition: object) -> bool:
    """Whether a composition, not read yet, is routed by a gate."""
    router = composition.get("router") if isinstance(composition, Mapping) else None
    return (router.get("kind") if isinstance(router, Mapping) else router) == "gate"


def _wants_compare(body: Body) -> bool:
    """Raises `CompositionSchemaError` where the field is neither true nor false."""
    wanted = body.get(COMPARE)
    if wanted is not None and not isinstance(wanted, bool):
        raise CompositionSchemaError(
            f"'{COMPARE}' is {quoted(repr(wanted))}. Give true or false.", param=COMPARE
        )
    return bool(wanted)


def _refuse_compare(kind: Kind | None, body: Body) -> None:
    if kind is not None and _wants_compare(body):
        raise UnsupportedError(
            f"'{COMPARE}' asks for each expert alone, and the request asks one model alone. "
            f"Give a '{FIELD}', or leave it out.",
            param=COMPARE,
        )


def _without_ours(body: Body) -> Body:
    """The fields that vLLM knows."""
    return {name: value for name, value in body.items() if name not in (FIELD, COMPARE)}


def _unstored(body: Body) -> Body:
    """A request to /v1/responses whose answer vLLM forgets.

    It would keep the answer, in the name that the engine gives the adapter, without an end.

    Raises:
        UnsupportedError: the request ends before its answer is there, and so would its lease.
    """
    if body.get("background"):
        raise UnsupportedError(
            "'background' needs a stored answer, and only those of the base model are stored. "
            "Wait for the answer, or stream it.",
            param="background",
        )
    return body | {"store": False}


def _aliases(lease: Lease) -> dict[str, str]:
    return {generation.engine_name: alias for alias, generation in lease.generations.items()}


def _digests(lease: Lease) -> dict[str, str]:
    """What the answer says about the adapters that computed it."""
    return {alias: generation.digest for alias, generation in sorted(lease.generations.items())}
