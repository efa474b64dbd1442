"""What docs/ says of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from server import settings
from server.auth.access_control import ALLOWED, KEYLESS
from server.auth.keys import Role
from server.compose import request_bounds

OPERATING = (Path(__file__).resolve().parent.parent / "docs" / "operating.md").read_text("utf-8")
OF_OTHERS = {
    "--ssl-certfile",
    "--ssl-keyfile",
    "--enable-log-requests",
    "--otlp-traces-endpoint",
    "--structured-outputs-config",
    "--kv-cache-memory-bytes",
    "--max-num-seqs",
    "--max-loras",
    "--max-cpu-loras",
    "--stop-timeout",
}
"""Options of vLLM, and of Docker."""


def test_the_table_of_bounds() -> None:
    begin, end = (
        "<!-- bounds: generated from server.compose.request_bounds -->\n",
        "\n<!-- /bounds -->",
    )
    table = OPERATING.split(begin)[1].split(end)[0]
    assert table == request_bounds.overview(), f"put there:\n{request_bounds.overview()}"


def test_options_that_are_named_exist() -> None:
    known = settings.option_names()
    named = set(re.findall(r"`(--[a-z-]+)", OPERATING))
    assert named - OF_OTHERS <= known, f"no such option: {sorted(named - OF_OTHERS - known)}"


def test_routes_and_roles_that_are_named_exist() -> None:
    assert all(path in OPERATING for path in KEYLESS | {"/metrics", "/openapi.json"})
    assert all(path.rsplit("/", 1)[-1] in OPERATING.replace(" ", "/") for path in ALLOWED)
    assert re.findall(r"^\| `([a-z]+)` \| [a-z]", OPERATING, re.M) == [str(role) for role in Role]
