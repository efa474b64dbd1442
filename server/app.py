"""Puts our part in front of vLLM's application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from adapters import ModelShapes, Profile, Store
from composer.errors import ComposerError
from composer.fields import BASE
from server.api_document import api_document
from server.auth.access_control import AccessControl, MetricsAccess, restrict_routes, route_of
from server.auth.quotas import Quotas
from server.compose.access import Access
from server.compose.catalogue import Catalogue
from server.compose.compile import Binder
from server.compose.incoming.sagemaker import INVOCATIONS
from server.compose.middleware import CompositionMiddleware
from server.compose.resolve import Resolver
from server.compose.routing.auto import AUTO, Routing
from server.compose.routing.gates import Gates, LoadedGate
from server.engine.port import Engine
from server.engine.residency import Loader
from server.errors import RouteNotFoundError, error_response
from server.http.drain import DrainMiddleware
from server.http.request_log import ObservationMiddleware
from server.http.store_position import StorePositionGate
from server.http.tracing import TracingMiddleware
from server.lifecycle import Lifecycle
from server.publishing.publisher import AdapterService
from server.publishing.store_threads import StoreThreads
from server.publishing.uploads import Uploads
from server.publishing.verify import against_peft
from server.publishing.weight_jobs import WeightSpace
from server.routes.adapters import AdminRoutes, make_admin
from server.routes.compositions import make_composition_router
from server.routes.health import make_health
from server.routes.models import make_router
from server.routes.prometheus import make_metrics
from server.server_paths import ServerPaths
from server.settings import Settings
from server.startup.auxiliary_models import AuxiliaryModel


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is put together from, before its engine is there."""

    settings: Settings
    base: Path
    """Folder of the base model."""

    shapes: ModelShapes | None
    auxiliaries: tuple[AuxiliaryModel, ...]
    adapters: Store
    lifecycle: Lifecycle
    gates: tuple[LoadedGate, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """Of the models: what routers know of the base and of auxiliary models."""


async def assemble(app: FastAPI, engine: Engine, parts: Parts) -> ASGIApp:
    """Load the adapters, and add our routes and layers to vLLM's application: what to serve.

    Before it serves its first request, and in the event loop that will.
    """
    settings, store = parts.settings, parts.adapters.compositions

    templates = {one.given.name: one.chat_template for one in parts.auxiliaries}
    shapes: dict[str | None, ModelShapes | None] = {None: parts.shapes}
    folders: dict[str | None, Path] = {None: parts.base}
    for one in parts.auxiliaries:
        shapes[one.given.name], folders[one.given.name] = one.shapes, one.folder

    def taken(name: str) -> bool:
        others = (BASE, AUTO, *engine.base_names)
        return name in others or name in store or name in templates

    verify = against_peft(engine, folders) if settings.verify_adapters else None
    threads = StoreThreads()
    loader = Loader(engine, parts.adapters, shapes, _paths(parts, folders), verify)
    service = AdapterService(engine, parts.adapters, shapes, taken, loader, threads)
    given = (settings.adapters, *(one.given.adapters for one in parts.auxiliaries))
    await service.start({alias for adapters in given for alias, _ in adapters})
    registry = service.registry
    for one_gate in parts.gates:
        await engine.load_gate(one_gate.path)
    gates, default = Gates(parts.gates), settings.default_router
    routing = Routing(engine, registry, gates, parts.profiles, default)
    access = Access(registry, loader, templates)
    catalogue = Catalogue(engine, registry, store, access, routing, templates, settings.limits)
    binder = Binder(engine, routing, templates)
    most_members = settings.limits.max_members
    resolver = Resolver(engine, registry, access, catalogue, routing, binder, most_members)
    router = make_router(engine, registry, store, catalogue)
    restrict_routes(app, settings.exposed)
    # Ours come first: of two routes for one path, the first answers.
    most = settings.max_compositions_per_key
    routers = [make_health(parts.lifecycle), router]
    routers.append(make_composition_router(engine, store, catalogue, threads, most))
    if settings.metrics is not MetricsAccess.OFF:
        routers.append(make_metrics(engine, registry, parts.adapters, parts.lifecycle))
    app.router.routes[:0] = [route for one in routers for route in one.routes]

    async def answer_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ComposerError):
            raise error
        error.message = loader.paths.hide(error.message)
        return error_response(error, route_of(request.scope))

    app.add_exception_handler(ComposerError, answer_error)
    app.add_exception_handler(404, _answer_missing)
    app.add_exception_handler(405, _answer_missing)
    # Starlette's list goes from the outermost to the innermost: vLLM's own, then who may do what,
    # then how far the store must be followed, then our routes for adapters, then compositions.
    layers = app.user_middleware
    quotas = Quotas()
    layers.append(Middleware(DrainMiddleware, lifecycle=parts.lifecycle))
    if app.state.args.otlp_traces_endpoint is not None:
        layers.append(Middleware(TracingMiddleware))
    layers.append(
        Middleware(AccessControl, keys=settings.keys, quotas=quotas, metrics=settings.metrics)
    )
    layers.append(Middleware(StorePositionGate, position=service.position))
    routes = list(app.router.routes)
    if settings.keys.publishes:
        weights = WeightSpace(parts.adapters, settings.sources, parts.base)
        uploads = Uploads(settings.sources, weights, parts.adapters, threads)
        admin = make_admin(service, uploads, threads, loader.paths)
        most, small = settings.sources.max_bytes, settings.max_body_bytes
        layers.append(
            Middleware(AdminRoutes, admin=admin, max_body_bytes=most, max_json_bytes=small)
        )
        routes += admin.routes
    app.openapi_schema = api_document(routes)
    layers.append(
        Middleware(
            CompositionMiddleware,
            engine=engine,
            resolver=resolver,
            quotas=quotas,
            max_body_bytes=settings.max_body_bytes,
            has_invocations=INVOCATIONS in settings.exposed,
            forces_usage=app.state.args.enable_force_include_usage,
        )
    )
    # vLLM has built the stack already, without our layers and our error handler.
    app.middleware_stack = app.build_middleware_stack()
    parts.lifecycle.conditions += [
        lambda: None if engine.alive else "the engine has died",
        lambda: service.store_problem,
    ]
    return ObservationMiddleware(app, log_requests=settings.log_requests)


def _paths(parts: Parts, folders: Mapping[str | None, Path]) -> ServerPaths:
    """What the errors that clients see must not name."""
    found = {path: f"the model {name or BASE}" for name, path in folders.items()}
    if (root := parts.settings.sources.root) is not None:
        found[root.absolute()] = "the adapter root"
    return ServerPaths(found | {parts.adapters.root: "the adapter store"})


async def _answer_missing(request: Request, error: Exception) -> JSONResponse:
    path = route_of(request.scope)
    said = str(getattr(error, "detail", ""))
    if said in ("", "Not Found", "Method Not Allowed"):
        said = f"{request.method} {path} is no route of this server. GET /openapi.json lists them."
    return error_response(RouteNotFoundError(said), path)
