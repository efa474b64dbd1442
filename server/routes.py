"""Our own routes: the list of models, and stored compositions."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters import Registry
from composer.errors import CompositionError
from composer.plan import BASE
from server.engine import Body, Engine
from server.errors import InvalidJsonError, NameTakenError
from server.keys import Key, key_of
from server.resolve import Resolver
from server.routing import AUTO, Routing
from server.store import CompositionStore, Json, check_name


def model_list(
    engine: Engine, registry: Registry, store: CompositionStore, routing: Routing, key: Key
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
            "id": name,
            "object": "model",
            "created": engine.started,
            "owned_by": "compositions",
            "root": name,
            "parent": BASE,
            "composition": store.get(name),
        }
        for name in store.names()
        if key.may_use(name)
    ]
    models = [
        {
            "id": name,
            "object": "model",
            "created": engine.started,
            "owned_by": "auxiliary models",
            "root": name,
            "parent": None,
            "max_model_len": capacity.context_tokens,
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
        "router": routing.default,
    }
    routers = [auto] if routing.serves_auto and key.may_use(AUTO) else []
    base = engine.base_cards() if key.may_use(BASE) else []
    data = [*base, *models, *adapters, *compositions, *routers]
    return {"object": "list", "data": data}


def make_router(
    engine: Engine, registry: Registry, store: CompositionStore, resolver: Resolver
) -> APIRouter:
    """The routes, bound to what this server has."""
    router = APIRouter(tags=["composer"])

    def described(name: str) -> Body:
        """A stored composition with its plan, or with the reason why it has none any more."""
        composition = store.get(name)
        entry: Body = {"object": "composition", "name": name, "composition": composition}
        try:
            return entry | {"plan": resolver.parse(composition).to_dict()}
        except CompositionError as error:
            return entry | {"error": error.message}

    @router.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        """List the base model, the adapters and the stored compositions."""
        return model_list(engine, registry, store, resolver.routing, key_of(request.scope))

    @router.get("/v1/models/{model:path}")
    async def get_model(model: str, request: Request) -> dict[str, Any]:
        """Describe one model of the list, or a formula, which `model` of a request may be too."""
        key = key_of(request.scope)
        for card in model_list(engine, registry, store, resolver.routing, key)["data"]:
            if card["id"] == model:
                return dict(card)
        plan = resolver.plan_of(model, key)
        return {
            "id": model,
            "object": "model",
            "created": engine.started,
            "owned_by": "formulas",
            "root": model,
            "parent": BASE,
            "plan": plan.to_dict(),
        }

    @router.get("/v1/compositions")
    async def list_compositions() -> dict[str, Any]:
        """List the stored compositions with their plans."""
        return {"object": "list", "data": [described(name) for name in store.names()]}

    @router.get("/v1/compositions/{name}")
    async def get_composition(name: str) -> dict[str, Any]:
        """One stored composition with its plan."""
        return described(name)

    @router.put("/v1/compositions/{name}")
    async def put_composition(name: str, request: Request) -> JSONResponse:
        """Store the composition in the body under a name that `model` may then be."""
        check_name(name)
        if name == AUTO or name in engine.base_names or name in resolver.member_names:
            raise NameTakenError(
                f"'{name}' already names the base model, an adapter or the router. Choose another.",
                param="name",
            )
        try:
            composition: Json = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise InvalidJsonError(
                f"the body is not JSON: {error}. Send a composition, e.g. "
                '"base + 0.5*polite" with the quotes.'
            ) from error
        resolver.parse(composition)
        new = await run_in_threadpool(store.put, name, composition)
        return JSONResponse(described(name), status_code=201 if new else 200)

    @router.delete("/v1/compositions/{name}")
    async def delete_composition(name: str) -> dict[str, Any]:
        """Forget a stored composition. Requests that run are not affected."""
        await run_in_threadpool(store.delete, name)
        return {"object": "composition", "name": name, "deleted": True}

    return router
