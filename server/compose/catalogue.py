"""What the field `model` may name: the base, adapters, stored compositions, `auto`, formulas."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NoReturn

from adapters import Compositions, CompositionVersion, Registry, model_of
from composer.errors import (
    CompositionError,
    CompositionSchemaError,
    FormulaSyntaxError,
    UnknownModelError,
    UnsupportedError,
    quoted,
)
from composer.fields import BASE
from composer.formula import quote_name
from composer.plan import Limits, Plan
from composer.request import parse_composition
from server.auth.keys import Key
from server.compose.access import Access, MemberNames
from server.compose.incoming.request_fields import FIELD
from server.compose.routing.auto import AUTO, Routing
from server.compose.stored_compositions import is_for, is_private, sees
from server.engine.port import Engine, Kind

_FORMULA_CHARACTERS = frozenset(" +*()'")  # names may contain "-" and "/"

_MAX_AUTO_PLANS = 64
"""Plans of the default router that are kept, one for each set of permissions."""

_ENGINE_NAME = re.compile(r"[^@]+@[0-9a-f]{12}")
"""The engine's name of an adapter generation. Clients name aliases, because these have policies."""


class Catalogue:
    """Turns names and compositions into plans, as far as a key may see them."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        store: Compositions,
        access: Access,
        routing: Routing,
        models: Collection[str],
        limits: Limits,
    ) -> None:
        """`models`: the auxiliary models."""
        self.member_names = access.names
        self._names_with_gates = MemberNames(registry, models, routing.gates.classes)
        self._engine = engine
        self._registry = registry
        self._store = store
        self.access = access
        self.routing = routing
        self._limits = limits
        self._auto_plans: dict[tuple[frozenset[str] | None, str | None], tuple[int, Plan]] = {}

    # ---- plans

    def parse(self, composition: object, param: str = FIELD, key: Key | None = None) -> Plan:
        """Parse a composition of members that a key may use, or of any member without a key.

        Raises:
            CompositionError: the composition is malformed or names something unknown.
        """
        # Gates know retired adapters; the field `missing` of the router decides about them.
        known = self._names_with_gates if _has_gate(composition) else self.member_names
        known = known if key is None else known.visible_to(key)
        return parse_composition(composition, known=known, limits=self._limits, param=param)

    def plan_of(self, model: str, key: Key) -> Plan:
        """Return the plan of one model alone, a stored composition, the default router or a
        formula. A name such as `chat-small` is a model before it is a formula.

        Raises:
            CompositionError: `model` is none of these.
        """
        self.check_key(model, key)
        if (name := self.member_name(model)) in self.member_names:
            return self.parse(quote_name(name), param="model", key=key)
        if (stored := self._store.find(model)) is not None:
            return self.stored_plan(stored, key, param="model")
        if model == AUTO:
            return self._auto_plan(key)
        try:
            return self.parse(model, param="model", key=key)
        except (FormulaSyntaxError, UnknownModelError):
            if _FORMULA_CHARACTERS.isdisjoint(model):  # a name, not a formula
                self._refuse_unknown(model, key)
            raise

    def _auto_plan(self, key: Key) -> Plan:
        """Return the plan of the default router, parsed again only after adapters have changed."""
        changes, permissions = self.routing.changes, (key.models, key.secret)
        parsed = self._auto_plans.get(permissions)
        if parsed is None or parsed[0] != changes:
            if len(self._auto_plans) >= _MAX_AUTO_PLANS:
                self._auto_plans.clear()
            parsed = changes, self.parse(self.routing.auto(key), param="model")
            self._auto_plans[permissions] = parsed
        return parsed[1]

    def allowed_plan(self, model: str, key: Key) -> Plan:
        """Return `plan_of(model, key)` if the policies of its adapters allow the key to use it.

        Raises:
            CompositionError: `model` names nothing.
            AdapterForbiddenError: the policy of an adapter forbids its use.
        """
        plan = self.plan_of(model, key)
        self.access.check_plan(plan, key)
        return plan

    def stored_plan(self, version: CompositionVersion, key: Key, param: str = FIELD) -> Plan:
        """Return the plan of a stored composition, with the prompts hidden that `key` may not see.

        Raises:
            CompositionError: this server cannot compute the composition now.
        """
        try:
            plan = self.parse(version.content, param=param)
        except UnknownModelError as error:  # its message shows names of models, not prompts
            known = self.member_names.visible_to(key)
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

    def key_for_members(self, model: str, key: Key) -> Key:
        """Return the key that the members of `model` are checked with: in a composition that
        another key has stored, they need no permission of their own."""
        stored = self._store.find(model)
        is_foreign = stored is not None and stored.owner != key.name
        return replace(key, models=None) if is_foreign else key

    def names_one_model(self, model: str) -> bool:
        """Return whether `model` names the base model or an adapter of it, and no composition."""
        return model in self._engine.base_names or (
            model in self._registry and model_of(model) is None
        )

    def describe(self, model: str, composition: object) -> tuple[str, str]:
        """Return name and recipe of a composition for metrics, both from bounded sets."""
        if composition is not None:
            return FIELD, _recipe_of(composition)
        if model in self._store:
            return model, _recipe_of(self._store.get(model))
        return (AUTO, "mixture") if model == AUTO else ("formula", "sum")

    def member_name(self, model: str) -> str:
        """Return the name that members have for the one model that `model` names."""
        return BASE if model in self._engine.base_names else model

    # ---- refusals

    def check_key(self, model: str, key: Key) -> None:
        """Raise `UnknownModelError` if `model` names something that the key may not use."""
        name = self.member_name(model)
        stored = self._store.find(name)
        if stored is not None and is_for(stored, key):
            return
        exists = stored is not None or name in self.member_names or name == AUTO
        if exists and not key.may_use(name):
            self._refuse_unknown(model, key)

    def refuse_composition(self, model: str, key: Key) -> None:
        """Refuse a composition, or an engine name, on a route of vLLM that composes nothing.

        Raises:
            UnknownModelError: `model` is the engine's name of an adapter.
            UnsupportedError: `model` names a composition.
        """
        if _ENGINE_NAME.fullmatch(model):
            self._refuse_unknown(model, key)
        try:
            self.plan_of(model, key)
        except CompositionError:  # vLLM answers in its own words that the model does not exist
            return
        raise UnsupportedError(
            f"{quoted(model)} is a composition, and this route does not compute any. Send the "
            f"request to one of {', '.join(kind for kind in Kind if kind.generates)}.",
            param="model",
        )

    def _refuse_unknown(self, model: str, key: Key) -> NoReturn:
        base = self._engine.base_names if key.may_use(BASE) else ()
        stored = [version.name for version in self._store.all() if is_for(version, key)]
        auto = (AUTO,) if self.routing.serves_auto and key.may_use(AUTO) else ()
        known = {*base, *self.member_names.visible_to(key), *stored, *auto}
        raise UnknownModelError(model, known, param="model") from None


def _recipe_of(composition: object) -> str:
    """Return the recipe of a valid composition; formulas and lists of members are sums."""
    recipe = composition.get("recipe") if isinstance(composition, Mapping) else None
    return recipe if isinstance(recipe, str) else "sum"


def _has_gate(composition: object) -> bool:
    """Return whether an unparsed composition is routed by a gate."""
    router = composition.get("router") if isinstance(composition, Mapping) else None
    return (router.get("kind") if isinstance(router, Mapping) else router) == "gate"
