"""vllm-router between client and server: no field gets lost unnoticed, a refusal stays one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from bench.claim import CannotMeasure
from bench.machine.router import routing
from bench.scale_out.fields import arrive
from tests.support.live_server import LiveServer


@pytest.fixture(scope="module")
def router(server: LiveServer) -> Iterator[httpx.Client]:
    try:
        with routing([server.url], "round_robin") as process:
            yield process.client
    except CannotMeasure as error:
        pytest.skip(str(error))


def test_fields_arrive_or_are_refused(router: httpx.Client) -> None:
    checks = list(arrive(router, "zoo"))
    assert len(checks) == 21
    assert [what for what, passed in checks if not passed] == []


def test_the_position_of_the_store_arrives(server: LiveServer, router: httpx.Client) -> None:
    body = {"model": "base + polite", "prompt": "Hi", "max_tokens": 2}
    assert router.post("/v1/completions", json=body).status_code == 200
    wrong = {"X-Composer-Store": "17"}
    refused = router.post("/v1/completions", json=body, headers=wrong)
    assert refused.json() | {"request_id": None} == (
        server.http.post("/v1/completions", json=body, headers=wrong).json() | {"request_id": None}
    )
