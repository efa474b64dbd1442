"""The routes of models: list them, and describe one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from adapters import Compositions, Registry
from composer.fields import BASE
from server.auth.keys import Key, key_of
from server.compose.catalogue import Catalogue
from server.compose.routing.auto import AUTO, Routing
from server.compose.stored_compositions import is_for, is_private
from server.engine.port import Body, Engine


def model_list(
    engine: Engine, registry: Registry, store: Compositions, routing: Routing, key: Key
) -> Body:
    """What `model` may be for a key: the base, adapters, stored compositions, and `auto` where
    there is something to route to; formulas are not listed."""
    adapters = [
        {
            "id": alias,
            "object": "model",
            "created": engine.started,
            "owned_by": "adapters",
            "root": alias,
            "parent": served.generation.model or BASE,
            "digest": served.generation.digest,
            "rank": served.generation.rank,
            "version": served.version,
        }
        for alias in registry.names()
        if (served := registry.get(alias)) is not None
        and key.may_use(alias)
        and served.policy.allows_key(key.secret)
    ]
    compositions = [
        {
            "id": version.name,
            "object": "model",
            "created": engine.started,
            "owned_by": "compositions",
            "root": version.name,
            "parent": BASE,
            "version": version.number,
            "private": is_private(version, key),
            **({} if is_private(version, key) else {"composition": version.content}),
        }
        for version in store.all()
        if is_for(version, key)
    ]
    models = [
        {
            "id": name,
            "object": "model",
            "created": engine.started,
            "owned_by": "auxiliary models",
            "root": name,
            "parent": None,
            "max_model_len": capacity.model.context_tokens,
        }
        for name, capacity in engine.capacities.items()
        if name is not None and key.may_use(name)
    ]
    auto = {
        "id": AUTO,
        "object": "model",
        "created": engine.started,
        "owned_by": "router",
        "root": AUTO,
        "parent": BASE,
        "router": routing.default_router,
    }
    routers = [auto] if routing.serves_auto and key.may_use(AUTO) else []
    base = engine.base_cards() if key.may_use(BASE) else []
    data = [*base, *models, *adapters, *compositions, *routers]
    return {"object": "list", "data": data}


def make_router(
    engine: Engine, registry: Registry, store: Compositions, catalogue: Catalogue
) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["composer"])

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """List the base model, the adapters and the stored compositions."""
        return model_list(engine, registry, store, catalogue.routing, key_of(request.scope))

    @router.get("/v1/models/{model:path}")
    async def get_model(model: str, request: Request) -> dict[str, Any]:
        """Describe one model of the list, or a formula, which `model` of a request accepts too."""
        key = key_of(request.scope)
        for card in model_list(engine, registry, store, catalogue.routing, key)["data"]:
            if card["id"] == model:
                return dict(card)
        plan = catalogue.allowed_plan(model, key)
        return {
            "id": model,
            "object": "model",
            "created": engine.started,
            "owned_by": "formulas",
            "root": model,
            "parent": BASE,
            "plan": plan.to_dict(),
        }

    return router
