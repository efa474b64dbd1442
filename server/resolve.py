"""From a request that composes to the request that vLLM runs.

`model` may be the base, an adapter, a stored composition or a formula; the field `composition`
takes everything else. The outcome names one model of vLLM's and carries the compiled plan.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from adapters import Generation, Lease, Policy, Registry, model_of
from composer.compiled import CompiledPlan, LoadedAdapter, Row
from composer.errors import (
    ComposerError,
    CompositionSchemaError,
    FormulaSyntaxError,
    UnknownModelError,
    UnsupportedError,
    quoted,
)
from composer.plan import BASE, Limits, Member, Plan
from composer.prompts import RequestPrompt
from composer.wire import parse_composition
from server.capacity import RowNeed, check_group
from server.engine import Body, Engine, Kind
from server.errors import AdapterForbiddenError, AdapterUnavailableError
from server.loading import Loader
from server.members import member_tokens
from server.rewrite import Decoration
from server.store import CompositionStore

FIELD = "composition"
"""The field of the request, which vLLM never sees."""

_FORMULA_CHARACTERS = frozenset(" +*()'")  # names may hold - and /


_ENGINE_NAME = re.compile(r"[^@]+@[0-9a-f]{12}")
"""How the engine calls a generation. Requests name aliases, which have policies."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of a request.

    The adapters in `lease` stay loaded until it is released, which is for whoever got this to do.
    """

    body: Body
    decoration: Decoration
    lease: Lease


class MemberNames(Collection[str]):
    """What members may be called: the models, and the adapters as they are at any moment."""

    def __init__(self, registry: Registry, models: Collection[str]) -> None:
        self._registry = registry
        self._models = (BASE, *models)

    def __contains__(self, name: object) -> bool:
        return name in self._models or name in self._registry

    def __iter__(self) -> Iterator[str]:
        yield from self._models
        yield from self._registry

    def __len__(self) -> int:
        return len(self._models) + len(self._registry)


class Resolver:
    """Binds names to what is served here."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        loader: Loader,
        store: CompositionStore,
        limits: Limits,
        templates: Mapping[str, str | None],
    ) -> None:
        """`templates`: auxiliary models, and the chat templates of those that have their own."""
        self.member_names = MemberNames(registry, templates)
        self._templates = templates
        self._engine = engine
        self._registry = registry
        self._loader = loader
        self._store = store
        self._limits = limits

    def parse(self, composition: object, param: str = FIELD) -> Plan:
        """Read a composition. Raises `CompositionError`."""
        return parse_composition(
            composition, known=self.member_names, limits=self._limits, param=param
        )

    async def resolve(
        self, kind: Kind | None, body: Body, api_key: str | None = None
    ) -> Resolution | None:
        """What becomes of the request; None for an ordinary one, which vLLM gets as it came.

        Args:
            kind: the route, where it is one that composes.
            body: the request.
            api_key: the key that it came with, for the policies of adapters.

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
            if asked in self._engine.base_names:
                return None
            if asked in self._registry and model_of(asked) is None:
                return await self._alone(kind, body, asked, api_key)
            if kind is None:
                self._refuse_engine_name(asked)
                return None
            plan = self._named(asked)
        else:
            if asked not in self._engine.base_names:
                raise CompositionSchemaError(
                    f"the request has a composition and the model {quoted(asked)}. "
                    f"With a composition, leave model out or set it to '{BASE}'.",
                    param="model",
                )
            plan = self.parse(composition)
        return await self._composed(kind, body, asked, plan, api_key)

    async def _alone(
        self, kind: Kind | None, body: Body, alias: str, api_key: str | None
    ) -> Resolution:
        """A request to one adapter, on any of vLLM's routes."""
        self._check_policy(alias, api_key)
        lease = await self._lease({alias})
        generation = lease.generations[alias]
        told = _digests(lease) if kind is not None else None
        rewritten = body | {"model": generation.engine_name}
        return Resolution(rewritten, Decoration(alias, None, told), lease)

    async def _composed(
        self, kind: Kind, body: Body, asked: str, plan: Plan, api_key: str | None
    ) -> Resolution:
        self._check_policies(plan, api_key)
        lease = await self._lease({m.model for m in plan.members if m.model in self._registry})
        try:
            rewritten = await self._rewrite(kind, body, plan, lease.generations)
        except BaseException:
            lease.release()
            raise
        told = {"plan": plan.to_dict(), "rows": plan.rows}
        return Resolution(rewritten, Decoration(asked, told, _digests(lease)), lease)

    def _named(self, model: str) -> Plan:
        """The plan that a `model` stands for: a stored composition or a formula."""
        if model in self._store:
            return self.parse(self._store.get(model), param="model")
        try:
            return self.parse(model, param="model")
        except (FormulaSyntaxError, UnknownModelError):
            if _FORMULA_CHARACTERS.isdisjoint(model):  # a name, not a formula: say so
                self._refuse_unknown(model)
            raise

    def _refuse_unknown(self, model: str) -> NoReturn:
        known = (*self._engine.base_names, *self.member_names, *self._store.names())
        raise UnknownModelError(model, set(known), param="model") from None

    def _refuse_engine_name(self, model: str) -> None:
        if _ENGINE_NAME.fullmatch(model):
            self._refuse_unknown(model)

    # ---- adapters

    async def _lease(self, aliases: Collection[str]) -> Lease:
        lease = self._registry.lease(aliases)
        try:
            await self._loader.ensure(lease.generations.values())
        except ComposerError as error:
            lease.release()
            raise AdapterUnavailableError(
                f"an adapter of this request cannot be loaded: {error.message}", param="model"
            ) from error
        except BaseException:
            lease.release()
            raise
        return lease

    def _check_policies(self, plan: Plan, api_key: str | None) -> None:
        for member, weight in zip(plan.members, plan.weights, strict=True):
            if member.model == BASE or member.model in self._templates:
                continue
            policy = self._check_policy(member.model, api_key)
            if not policy.compositions and not plan.is_plain:
                raise AdapterForbiddenError(
                    f"the adapter {quoted(member.model)} may not be used in compositions. "
                    f'Ask it alone: "model": "{member.model}".',
                    param=FIELD,
                )
            if not policy.negative and weight < 0:
                raise AdapterForbiddenError(
                    f"the adapter {quoted(member.model)} has the weight {weight:g} in this "
                    "composition, and may not have a negative one. Give it a positive weight.",
                    param=FIELD,
                )

    def _check_policy(self, alias: str, api_key: str | None) -> Policy:
        served = self._registry.get(alias)
        if served is None:
            raise UnknownModelError(alias, self.member_names, param=FIELD)
        if not served.policy.allows_key(api_key):
            raise AdapterForbiddenError(
                f"the adapter {quoted(alias)} is not open to this API key. Ask its operator.",
                param="model",
            )
        return served.policy

    # ---- the rewritten request

    async def _rewrite(
        self, kind: Kind, body: Body, plan: Plan, generations: Mapping[str, Generation]
    ) -> Body:
        rewritten = {k: v for k, v in body.items() if k != FIELD}
        name = plan.members[plan.leader].model
        generation = generations.get(name)
        if plan.is_plain and self._model_of(name) is None:
            rewritten["model"] = generation.engine_name if generation else self._base
            return rewritten
        compiled = await self._compile(kind, rewritten | {"model": self._base}, plan, generations)
        leader = compiled.rows[0].adapter
        rewritten["model"] = leader.name if leader else self._base
        rewritten["vllm_xargs"] = {**(body.get("vllm_xargs") or {}), **compiled.to_extra_args()}
        return rewritten

    @property
    def _base(self) -> str:
        return self._engine.base_names[0]

    def _model_of(self, name: str) -> str | None:
        """The auxiliary model that computes a member; None is the base."""
        return name if name in self._templates else model_of(name)

    async def _compile(
        self, kind: Kind, body: Body, plan: Plan, generations: Mapping[str, Generation]
    ) -> CompiledPlan:
        """Bind the members to models, adapters and tokens, and see that the group can run."""
        rendered = await self._engine.open(kind, body)
        request = max(rendered.prompts, key=len)
        if len(rendered.prompts) > 1 and not self._reads_request_only(kind, plan):
            raise UnsupportedError(
                f"the request has {len(rendered.prompts)} prompts, and a member reads a prompt "
                "of its own. Send the prompts one by one.",
                param="prompt",
            )
        rows, needs = [], []
        for member, weight in zip(plan.members, plan.weights, strict=True):
            model = self._model_of(member.model)
            template = self._templates.get(model) if model is not None else None
            prompt = await member_tokens(self._engine, kind, body, member, request, template)
            adapter = _loaded(generations.get(member.model))
            rows.append(Row(weight, adapter, prompt, model))
            name = adapter.name if adapter else None
            tokens = len(request if prompt is None else prompt)
            needs.append(RowNeed(member, model, tokens, name))
        compiled = CompiledPlan.led(rows, plan.filters)
        if len(compiled.rows) > len(rows):  # a row of the base model leads
            needs.append(RowNeed(Member(BASE), None, len(request)))
        check_group(needs, rendered.max_tokens, self._engine.capacities)
        return compiled

    def _reads_request_only(self, kind: Kind, plan: Plan) -> bool:
        """Whether all members read the very tokens of the request."""
        models = (self._model_of(member.model) for member in plan.members)
        own = kind is Kind.CHAT and any(self._templates.get(m) for m in models if m is not None)
        return not own and all(isinstance(m.prompt, RequestPrompt) for m in plan.members)


def _loaded(generation: Generation | None) -> LoadedAdapter | None:
    """The adapter as the engine knows it; None for the base."""
    if generation is None:
        return None
    return LoadedAdapter(generation.engine_name, generation.number, str(generation.path))


def _digests(lease: Lease) -> dict[str, str]:
    """What the answer says about the adapters that computed it."""
    return {alias: generation.digest for alias, generation in sorted(lease.generations.items())}
