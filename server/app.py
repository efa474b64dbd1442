"""Assemble the application: our routes and layers in front of vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
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
from server.compose.routing.sentence_encoder import SentenceEncoder
from server.compose.scoring.scorer import Scorer
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
from server.routes.composition_writer import CompositionWriter
from server.routes.compositions import make_composition_router
from server.routes.health import make_health
from server.routes.models import make_router
from server.routes.pages import make_pages
from server.routes.prometheus import make_metrics
from server.routes.scoring import make_scoring_router
from server.server_paths import ServerPaths
from server.settings import Settings
from server.startup.auxiliary_models import AuxiliaryModel


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is known of a server before its engine is loaded.

    base: folder of the base model.
    shapes: of the base model, if they are known.
    encoder: of `--prompt-encoder`.
    profiles: examples of the base model and of auxiliary models, for routers.
    """

    settings: Settings
    base: Path
    shapes: ModelShapes | None

    auxiliaries: tuple[AuxiliaryModel, ...]
    adapters: Store
    lifecycle: Lifecycle
    gates: tuple[LoadedGate, ...] = ()
    encoder: SentenceEncoder | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)


async def assemble(app: FastAPI, engine: Engine, deployment: Deployment) -> ASGIApp:
    """Load the adapters, add our routes and layers to vLLM's application, and return what to serve.

    Call it in the event loop that will serve, before the first request.
    """
    settings, store = deployment.settings, deployment.adapters.compositions
    templates = {model.option.name: model.chat_template for model in deployment.auxiliaries}
    shapes: dict[str | None, ModelShapes | None] = {None: deployment.shapes}
    folders: dict[str | None, Path] = {None: deployment.base}
    for model in deployment.auxiliaries:
        shapes[model.option.name], folders[model.option.name] = model.shapes, model.folder

    def is_taken(name: str) -> bool:
        return name in (BASE, AUTO, *engine.base_names) or name in store or name in templates

    threads = StoreThreads()
    verify = against_peft(engine, folders) if settings.verify_adapters else None
    paths = _hidden_paths(deployment, folders)
    loader = Loader(engine, deployment.adapters, shapes, paths, verify)
    service = AdapterService(engine, deployment.adapters, shapes, is_taken, loader, threads)
    groups = (settings.adapters, *(model.option.adapters for model in deployment.auxiliaries))
    await service.start({alias for adapters in groups for alias, _ in adapters})
    registry = service.registry
    for loaded in deployment.gates:
        await engine.load_gate(loaded.path)
    gates = Gates(deployment.gates)
    routing = Routing(
        engine,
        registry,
        gates,
        deployment.profiles,
        settings.default_router,
        deployment.encoder,
    )
    await routing.index()
    access = Access(registry, loader, templates)
    catalogue = Catalogue(engine, registry, store, access, routing, templates, settings.limits)

    binder = Binder(engine, routing, templates)
    resolver = Resolver(engine, registry, catalogue, binder, settings.limits.max_members)
    quotas = Quotas()
    scorer = Scorer(engine, resolver, quotas)
    compose = partial(
        CompositionMiddleware,
        engine=engine,
        resolver=resolver,
        quotas=quotas,
        max_body_bytes=settings.max_body_bytes,
        has_invocations=INVOCATIONS in settings.exposed,
        forces_usage=app.state.args.enable_force_include_usage,
    )
    inner = ObservationMiddleware(compose(app.router), log_requests=settings.log_requests)
    limit = settings.max_compositions_per_key
    writer = CompositionWriter(engine, store, catalogue, threads, limit)

    restrict_routes(app, settings.exposed)
    routers = [
        make_health(deployment.lifecycle),
        make_pages(),
        make_router(engine, registry, store, catalogue),
        make_composition_router(writer, store, catalogue),
        make_scoring_router(engine, scorer, catalogue, settings.limits, writer, inner),
    ]
    if settings.metrics is not MetricsAccess.OFF:
        routers.append(make_metrics(engine, registry, deployment.adapters, deployment.lifecycle))
    # Of two routes for one path the first answers, so ours come before vLLM's.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    _add_error_handlers(app, loader.paths)

    # Starlette lists layers from the outermost to the innermost; vLLM's own are there already.
    layers = app.user_middleware
    layers.append(Middleware(DrainMiddleware, lifecycle=deployment.lifecycle))
    if app.state.args.otlp_traces_endpoint is not None:
        layers.append(Middleware(TracingMiddleware))
    layers.append(
        Middleware(AccessControl, keys=settings.keys, quotas=quotas, metrics=settings.metrics)
    )
    layers.append(Middleware(StorePositionGate, position=service.position))
    routes = list(app.router.routes)
    if settings.keys.publishes:
        weights = WeightSpace(deployment.adapters, settings.sources, deployment.base)
        uploads = Uploads(settings.sources, weights, deployment.adapters, threads)
        admin = make_admin(service, uploads, threads, loader.paths)
        layers.append(
            Middleware(
                AdminRoutes,
                admin=admin,
                max_body_bytes=settings.sources.max_bytes,
                max_json_bytes=settings.max_body_bytes,
            )
        )
        routes += admin.routes
    app.openapi_schema = api_document(routes)
    layers.append(Middleware(compose))
    # vLLM has built the stack already, without our layers and error handlers.
    app.middleware_stack = app.build_middleware_stack()
    deployment.lifecycle.conditions += [
        lambda: None if engine.alive else "the engine has died",
        lambda: service.store_problem,
    ]
    return ObservationMiddleware(app, log_requests=settings.log_requests)


def _hidden_paths(deployment: Deployment, folders: Mapping[str | None, Path]) -> ServerPaths:
    """Return the folders that errors must not show to clients."""
    names = {path: f"the model {name or BASE}" for name, path in folders.items()}
    if (root := deployment.settings.sources.root) is not None:
        names[root.absolute()] = "the adapter root"
    return ServerPaths(names | {deployment.adapters.root: "the adapter store"})


def _add_error_handlers(app: FastAPI, paths: ServerPaths) -> None:
    """Answer our errors, unknown routes and wrong methods in the format of the route."""

    async def answer_error(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ComposerError):
            raise error
        error.message = paths.hide(error.message)
        return error_response(error, route_of(request.scope))

    async def answer_missing(request: Request, error: Exception) -> JSONResponse:
        path = route_of(request.scope)
        reason = str(getattr(error, "detail", ""))
        if reason in ("", "Not Found", "Method Not Allowed"):
            reason = (
                f"{request.method} {path} is not a route of this server. GET /openapi.json lists "
                "the routes."
            )
        return error_response(RouteNotFoundError(reason), path)

    app.add_exception_handler(ComposerError, answer_error)
    app.add_exception_handler(404, answer_missing)
    app.add_exception_handler(405, answer_missing)
