"""Puts our part in front of vLLM's application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse

from adapters import Catalogue
from composer.errors import ComposerError
from server.engine import Engine
from server.errors import error_body, status_of
from server.front import Front
from server.resolve import Resolver
from server.routes import make_router
from server.settings import Settings
from server.store import CompositionStore


def assemble(
    app: FastAPI,
    engine: Engine,
    catalogue: Catalogue,
    store: CompositionStore,
    settings: Settings,
) -> None:
    """Add our routes and our layer to vLLM's application, before it serves its first request."""
    resolver = Resolver(engine, catalogue, store, settings.limits)
    router = make_router(engine, catalogue, store, resolver)
    # Ours come first: of two routes for one path, the first answers.
    app.router.routes[:0] = router.routes
    app.add_exception_handler(ComposerError, _answer_error)
    # Starlette's list goes from the outermost to the innermost.
    app.user_middleware.append(
        Middleware(Front, resolver=resolver, max_body_bytes=settings.max_body_bytes)
    )
    # vLLM has built the stack already, without our layer and our error handler.
    app.middleware_stack = app.build_middleware_stack()


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ComposerError):
        raise error
    return JSONResponse(error_body(error), status_code=status_of(error))
