"""`/live` and `/ready`, for whoever starts the server again and whoever sends it requests."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from server.lifecycle import Lifecycle


def make_health(lifecycle: Lifecycle) -> APIRouter:
    """The routes, bound to this server. `/health` is vLLM's own: whether the engine lives."""
    router = APIRouter(tags=["health"])

    @router.get("/live")
    async def live() -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"status": "live"})

    @router.get("/ready", responses={503: {"description": "Send no requests"}})
    async def ready() -> JSONResponse:
        """Whether to send requests: the engine lives, its adapters are loaded, the store is
        followed, and the server is not about to end."""
        problems = lifecycle.problems()
        if not problems:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "problems": problems}, status_code=503)

    return router
