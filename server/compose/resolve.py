"""From a request that composes to the request that vLLM runs.

`model` may be the base, an adapter, a stored composition, a formula or `auto`; the field
`composition` takes everything else. The resolution names one model of vLLM and carries the
compiled plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from adapters import Generation, Lease, Registry, model_of
from composer.errors import CompositionError, CompositionSchemaError, UnsupportedError, quoted
from composer.fields import BASE
from composer.mixtures.gate_file import GateError
from composer.plan import Plan
from server.auth.keys import Key
from server.compose.access import Pins, check_alone
from server.compose.catalogue import Catalogue
from server.compose.compile import Binder, BoundPlan, Explain
from server.compose.incoming.request_bounds import check_composed_bounds
from server.compose.incoming.request_fields import (
    COMPARE,
    EXPLAIN,
    FIELD,
    wants,
    without_composer_fields,
)
from server.compose.resolution import Resolution
from server.compose.response.explanation import Explainer
from server.compose.response.response_fields import ResponseFields, RoutingField
from server.compose.routing.auto import AUTO
from server.compose.routing.router_report import RouterReport
from server.engine.port import Body, Engine, Kind


class Resolver:
    """Resolves requests with the models, adapters and policies of this server."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        catalogue: Catalogue,
        binder: Binder,
        max_members: int,
    ) -> None:
        """`max_members`: how many models of a mixture are compared at most."""
        self._engine = engine
        self._registry = registry
        self._catalogue = catalogue
        self._access, self._routing = catalogue.access, catalogue.routing
        self._binder = binder
        self._max_members = max_members

    async def resolve(
        self, kind: Kind | None, body: Body, key: Key, pins: Pins | None = None
    ) -> Resolution | None:
        """Resolve a request; return None for one that vLLM gets unchanged.

        Args:
            kind: the route; None for a route that composes nothing.
            body: the request.
            key: of the request.
            pins: the adapter generations that it computes with; by default the present ones.

        Raises:
            CompositionError: the composition cannot be computed.
            RefusedError: vLLM refuses the request.
            AdapterForbiddenError: the policy of an adapter forbids its use.
            AdapterUnavailableError: an adapter does not load.
        """
        model, composition = body.get("model"), body.get(FIELD)
        if model is not None and not isinstance(model, str):
            return None
        model = model or self._engine.base_names[0]
        if kind is None or composition is None:
            self._catalogue.check_key(model, key)
            if model in self._engine.base_names:
                _refuse_compare(kind, body)
                _refuse_explain(kind, body)
                return None
            explained = kind is not None and kind.generates and wants(EXPLAIN, body)
            if model in self._registry and model_of(model) is None and not explained:
                _refuse_compare(kind, body)
                return await self._resolve_adapter(kind, body, model, key, pins)
            if kind is None:
                self._catalogue.refuse_composition(model, key)
                return None
            plan = self._catalogue.plan_of(model, key)
        else:
            if model not in self._engine.base_names:
                raise CompositionSchemaError(
                    f"the request has a composition and the model {quoted(model)}. "
                    f"With a composition, leave model out or set it to '{BASE}'.",
                    param="model",
                )
            plan = self._catalogue.parse(composition, key=key)
        try:
            if not kind.generates:
                members_key = self._catalogue.key_for_members(model, key)
                return self._resolve_token_count(body, model, plan, members_key)
            resolution = await self._resolve_plan(kind, body, model, plan, key, pins)
        except CompositionError as error:
            error.param = error.param or FIELD
            raise
        name, recipe = self._catalogue.describe(model, composition)
        return replace(resolution, composition=name, recipe=recipe)

    async def _resolve_adapter(
        self, kind: Kind | None, body: Body, alias: str, key: Key, pins: Pins | None
    ) -> Resolution:
        """Resolve a request to one adapter, on any route of vLLM."""
        self._access.check(alias, key)
        if kind is Kind.RESPONSES:
            body = _unstored(body)
        lease = await self._access.lease({alias}, pins)
        digests = _digests(lease) if kind is not None else None
        fields = ResponseFields(alias, None, digests, aliases=_aliases(lease))
        return Resolution(body | {"model": lease.generations[alias].engine_name}, fields, lease)

    def _resolve_token_count(self, body: Body, model: str, plan: Plan, key: Key) -> Resolution:
        """Resolve a request that counts or shows tokens: the base model reads it as members do."""
        self._access.check_plan(plan, key)
        fields = ResponseFields(model, {"plan": plan.to_dict(), "rows": plan.rows})
        vllm_body = without_composer_fields(body) | {"model": self._base}
        return Resolution(vllm_body, fields, self._registry.lease(()), plan)

    async def _resolve_plan(
        self, kind: Kind, body: Body, model: str, plan: Plan, key: Key, pins: Pins | None
    ) -> Resolution:
        check_composed_bounds(body)
        if kind is Kind.RESPONSES:
            body = _unstored(body)
        settled, missing = await self._settle(kind, body, plan, key)
        compared = await self._compared_models(kind, body, plan) if wants(COMPARE, body) else ()
        members_key = self._catalogue.key_for_members(model, key)
        _check_base(plan, settled, members_key)
        # `auto` has left out what the key may not use: check what it chose, not all it chose from.
        self._access.check_plan(settled if model == AUTO else plan, members_key, missing)
        explain = None
        if wants(EXPLAIN, body):
            check_alone(settled.candidates, key, EXPLAIN)
            explain = Explain.WITH_BASE if key.may_use(BASE) else Explain.MEMBERS
        lease = await self._access.lease({member.model for member in settled.members}, pins)
        try:
            vllm_body, bound = await self._bind(kind, body, settled, lease.generations, explain)
        except BaseException:
            lease.release()
            raise
        fields = ResponseFields(
            model,
            {"plan": settled.to_dict(), "rows": settled.rows},
            _digests(lease),
            self._routing_field(settled, bound, missing),
            explainer=self._explainer(body, bound),
            aliases=_aliases(lease),
        )
        resolution = Resolution(vllm_body, fields, lease, settled, compared)
        if bound is None:
            return resolution
        rows = len(bound.engine_plan.rows)
        return replace(resolution, rows=rows, render_cache=bound.render_cache, models=bound.models)

    async def _settle(
        self, kind: Kind, body: Body, plan: Plan, key: Key
    ) -> tuple[Plan, tuple[str, ...]]:
        """Call `Routing.settle`; hide a gate's classes from keys that may not see all."""
        try:
            return await self._routing.settle(kind, body, plan)
        except GateError as error:
            if key.models is None:
                raise
            raise GateError(
                "the gate of this composition cannot choose among its experts. Ask the operator "
                "which ones it was trained for.",
                param=error.param,
            ) from error

    async def _compared_models(self, kind: Kind, body: Body, plan: Plan) -> tuple[str, ...]:
        """Return the models to compare: those of the plan, of many experts the best."""
        if body.get("stream"):
            raise UnsupportedError(
                f"'{COMPARE}' does not go with a stream. Leave one of them out.", param=COMPARE
            )
        best = self._routing.limit_experts(plan, self._max_members)
        settled, _ = await self._routing.settle(kind, body, best)
        return tuple(dict.fromkeys(settled.candidates))

    async def _bind(
        self,
        kind: Kind,
        body: Body,
        plan: Plan,
        generations: Mapping[str, Generation],
        explain: Explain | None,
    ) -> tuple[Body, BoundPlan | None]:
        """Return the request for vLLM, and its bound plan; None if one model alone answers."""
        vllm_body = without_composer_fields(body)
        name = plan.members[plan.leader].model
        if plan.is_plain and explain is None and self._binder.auxiliary_model_of(name) is None:
            generation = generations.get(name)
            vllm_body["model"] = generation.engine_name if generation else self._base
            return vllm_body, None
        vllm_body["model"] = self._base
        bound = await self._binder.bind(kind, vllm_body, plan, generations, explain=explain)
        leader = bound.engine_plan.rows[0].adapter
        vllm_body["model"] = leader.name if leader else self._base
        extra_args = bound.engine_plan.to_extra_args()
        vllm_body["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), **extra_args}
        return vllm_body, bound

    def _explainer(self, body: Body, bound: BoundPlan | None) -> Explainer | None:
        if bound is None or (explanation := bound.engine_plan.explanation) is None:
            return None
        return Explainer(
            self._engine,
            explanation.report_id,
            bound.models,
            mixed=bound.engine_plan.mixture is not None,
            switches=bound.engine_plan.switch is not None,
            prompts=bound.prompts,
            n=body.get("n") or 1,
        )

    def _routing_field(
        self, plan: Plan, bound: BoundPlan | None, missing: tuple[str, ...]
    ) -> RoutingField | None:
        if plan.mixture is None:
            return None
        models: tuple[str | None, ...] = tuple(member.model for member in plan.members)
        prior = {m.model: w for m, w in zip(plan.members, plan.weights, strict=True)}
        none = plan.mixture.none
        report = RouterReport(
            self._engine,
            models,
            prior,
            missing=missing,
            familiarity=dict(plan.mixture.familiarity),
            none_below=None if none == "default" else none,
        )
        if bound is not None:
            report = replace(
                report,
                models=bound.models,
                report_id=bound.engine_plan.report_id,
                explain=plan.mixture.explain,
            )
        return report.routing_field

    @property
    def _base(self) -> str:
        return self._engine.base_names[0]


def _check_base(plan: Plan, settled: Plan, key: Key) -> None:
    """Raise `UnsupportedError` if the base answers instead of experts, and not for this key."""
    chosen = BASE in settled.candidates and BASE not in plan.candidates
    if chosen and not key.may_use(BASE):
        raise UnsupportedError(
            f"the prompt is like no expert's examples, and '{BASE}', which answers such prompts, "
            "is not open to this API key. Ask an adapter by its name, or ask the operator for "
            f"access to '{BASE}'.",
            param="model",
        )


def _refuse_compare(kind: Kind | None, body: Body) -> None:
    if kind is not None and wants(COMPARE, body):
        raise UnsupportedError(
            f"'{COMPARE}' asks for each expert alone, and the request asks one model alone. "
            f"Give a '{FIELD}', or leave it out.",
            param=COMPARE,
        )


def _refuse_explain(kind: Kind | None, body: Body) -> None:
    if kind is not None and kind.generates and wants(EXPLAIN, body):
        raise UnsupportedError(
            f"'{EXPLAIN}' compares members with the base, and the request asks the base alone. "
            "Name an adapter or a formula, or leave it out.",
            param=EXPLAIN,
        )


def _unstored(body: Body) -> Body:
    """Return a request to /v1/responses whose response vLLM does not store.

    vLLM would keep the response forever, under the engine's name of the adapter.

    Raises:
        UnsupportedError: the request runs in the background, beyond the end of its lease.
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
    return {alias: generation.digest for alias, generation in sorted(lease.generations.items())}
