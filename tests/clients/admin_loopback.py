"""The routes for administrators, without adapters behind them.

The alias chooses the answer: `status-409` is refused before its body is read; `new` does not exist;
`gone` was deleted; all others are at version 3. `origin` of an answer is the request as received.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from adapters import Action, Policy, Profile, Version
from adapters.inspection.problems import Report

KEY = "the key of administrators"
DIGEST = "0123456789abcdef" * 4
PROFILE = {"examples": ["Could you?", "Please?"], "description": "manners"}
POLICY = {"negative": False, "keys": ["friend"]}
REPORT = Report(16, (2.0,), ("a.q_proj", "b.q_proj"), ("BF16",), 639_242, 315_392, DIGEST, "b@1")

router = APIRouter(prefix="/v1/adapters")


def refused(status: int) -> JSONResponse:
    error = {"message": f"this is error {status}", "code": f"code_{status}", "param": None}
    return JSONResponse({"error": error}, status_code=status)


def version(alias: str, number: int, action: Action, origin: dict[str, Any]) -> dict[str, Any]:
    digest = None if action is Action.DELETE else DIGEST
    policy, time = Policy.from_json(POLICY), "2026-01-02T03:04:05+00:00"
    profile = Profile.from_json(PROFILE)
    state = Version(7, "name", number, action, digest, policy, time, "admin", origin, profile)
    return {**state.to_json(), "alias": alias}  # of any form: the client must quote it


async def answer(request: Request, alias: str, action: Action = Action.PUBLISH) -> Response:
    if alias.startswith("status-"):
        return refused(int(alias.removeprefix("status-")))
    if alias in ("new", "gone") and request.method == "GET":
        return refused(404)
    if alias == "foreign":
        return JSONResponse({"alias": alias})
    return JSONResponse(entry(alias, action, await received(request)), headers={"ETag": '"3"'})


def entry(alias: str, action: Action, origin: dict[str, Any]) -> dict[str, Any]:
    state = version(alias, 3, action, origin)
    report = {} if state["digest"] is None else {"adapter": REPORT.to_json()}
    more = {"served": False, "error": "no\nroom"} if alias == "broken" else {"served": True}
    return {"object": "adapter", **state, **report, **more}


async def received(request: Request) -> dict[str, Any]:
    names = ("authorization", "if-match", "if-none-match", "content-type", "content-length")
    headers = {name: request.headers[name] for name in names if name in request.headers}
    seen: dict[str, Any] = {
        "line": f"{request.method} {request.scope['raw_path'].decode()}",
        **headers,
    }
    kind = headers.get("content-type", "").partition(";")[0]
    if kind == "multipart/form-data":
        async with request.form() as form:
            for name, value in form.items():
                if isinstance(value, UploadFile):
                    digest = hashlib.sha256()
                    while piece := await value.read(2**20):
                        digest.update(piece)
                    seen[name] = [value.filename, digest.hexdigest()]
                else:
                    seen[name] = json.loads(value)
    elif kind == "application/json":
        seen["json"] = await request.json()
    else:
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        seen["sha256"] = digest.hexdigest()
    return seen


@router.get("")
async def list_adapters(request: Request) -> Any:
    origin = await received(request)
    entries = [entry(alias, Action.PUBLISH, origin) for alias in ("broken", "polite")]
    return {"object": "list", "data": entries, "retiring": ["polite@0123456789ab"]}


@router.get("/{alias:path}/history")
async def history(alias: str, request: Request) -> Response:
    if alias.startswith("status-") or alias == "new":
        return await answer(request, alias)
    actions = [Action.PUBLISH, Action.POLICY, Action.DELETE if alias == "gone" else Action.PUBLISH]
    seen = await received(request)
    data = [version(alias, number, action, seen) for number, action in enumerate(actions, 1)]
    return JSONResponse({"object": "list", "data": data})


@router.put("/{alias:path}/policy")
async def policy(alias: str, request: Request) -> Response:
    return await answer(request, alias, Action.POLICY)


@router.put("/{alias:path}/profile")
async def profile(alias: str, request: Request) -> Response:
    return await answer(request, alias, Action.PROFILE)


@router.post("/{alias:path}/rollback")
async def rollback(alias: str, request: Request) -> Response:
    return await answer(request, alias, Action.ROLLBACK)


@router.get("/{alias:path}")
async def show(alias: str, request: Request) -> Response:
    return await answer(request, alias)


@router.put("/{alias:path}")
async def publish(alias: str, request: Request) -> Response:
    return await answer(request, alias)


@router.delete("/{alias:path}")
async def delete(alias: str, request: Request) -> Response:
    return await answer(request, alias, Action.DELETE)
