"""What `make serve` serves, on a free port, for all tests of a session that ask it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.live_server import ROOT, LiveServer, serving

KEY = "the key of the tests"
"""Of administrators."""


@contextmanager
def make_serve(log: Path, *variables: str) -> Iterator[LiveServer]:
    """Serve what `make serve` with these variables serves, but on a free port."""
    command = ["make", "--no-print-directory", "-n", "serve", "PORT=0", *variables]
    # `make test ARGS=…` hands its variables on to every make below it.
    plain = {name: os.environ[name] for name in ("PATH", "HOME")}
    shown = subprocess.run(
        command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    ).stdout
    words = shlex.split(shown.replace("\\\n", " ").partition(" -m scripts.serve ")[2])
    port = words.index("--port")
    arguments = words[:port] + words[port + 2 :]
    environment = {"OMP_NUM_THREADS": "1", "COMPOSER_ADMIN_KEY": KEY}
    with serving(arguments, log, environment, module="scripts.serve") as live:
        yield live


@pytest.fixture(scope="session")
def docs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The pages of docs/ show the zoo: what it answers does not depend on the processor."""
    with make_serve(tmp_path_factory.mktemp("docs") / "log.txt", "MODEL=zoo") as live:
        yield live
