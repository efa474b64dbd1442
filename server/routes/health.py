"""`/live` and `/ready`, for process supervisors and load balancers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from server.lifecycle import Lifecycle


def make_health(lifecycle: Lifecycle) -> APIRouter:
    """Return the routes. `/health` is vLLM's: whether the engine is alive."""
    router = APIRouter(tags=["health"])

    @router.get("/live")
    async def live() -> JSONResponse:
        """Answer as long as the process runs."""
        return JSONResponse({"status": "live"})

    @router.get("/ready", responses={503: {"description": "Send no requests"}})
    async def ready() -> JSONResponse:
        """Answer 200 if the engine is alive, adapters are loaded, the store is followed, and the
        server is not shutting down."""
        problems = lifecycle.problems()
        if not problems:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "problems": problems}, status_code=503)

    return router
