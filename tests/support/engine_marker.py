"""Which tests start an engine or a server, and which tests run on the same worker of pytest-xdist.

The markers `engine` and `slow` and the groups follow from the fixtures of a test. A test that
starts an engine in its own body has the marker itself. `EngineStarts` fails whatever starts one
unannounced.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import pytest
from _pytest.nodeid import NodeId

SERVERS = (
    *("server", "admin", "readme_server", "docs_server", "guarded", "family", "counting"),
    "encoded",
)
"""Fixtures that start a server. The users of one are a group, so that it starts once."""

SLOW = ("docs_server", "guarded", "family", "counting", "encoded", "browser")
"""Fixtures whose users are marked `slow`: a server for few tests, and the browser."""

ENGINES = ("roomy", "crowded", "tight", "tiny", "asynchronous", "engine", "loaded_engine", "exam")
"""Fixtures that start engines in this process. A module may have its own of the same name."""

COMMANDS = (
    "server",
    "scripts.serve",
    "bench.reproduce",
    "tests.engine.tensor_parallel",
    "tests.support.counting_server",
)
"""Modules that start an engine when run as `python -m MODULE`."""


def mark_by_fixtures(items: Sequence[pytest.Item]) -> None:
    """Mark each test by its fixtures, and give it its group for `loadgroup`."""
    for item in items:
        fixtures = _fixtures_of(item)
        if not fixtures.isdisjoint((*SERVERS, *ENGINES)):
            item.add_marker(pytest.mark.engine)
        if not fixtures.isdisjoint(SLOW):
            item.add_marker(pytest.mark.slow)
        file = PurePosixPath(item.nodeid.partition("::")[0]).stem
        group = next((name for name in SERVERS if name in fixtures), file)
        item.add_marker(pytest.mark.xdist_group(group))


def write_groups(items: Sequence[pytest.Item]) -> None:
    """Append to each test's id the group that pytest-xdist reads there.

    pytest-xdist 3.8 tries this itself, by an attribute that pytest has renamed in 9.2: its groups
    are ignored in silence (pytest-xdist#1386). Delete this function when the fix is released.
    """
    for item in items:
        [group] = item.iter_markers("xdist_group")
        if not item.nodeid.endswith(suffix := f"@{group.args[0]}"):
            item._id = NodeId.parse(item.nodeid + suffix)


def is_marked(item: pytest.Item) -> bool:
    """Return whether a test has the marker `engine`."""
    return item.get_closest_marker("engine") is not None


def _fixtures_of(item: pytest.Item) -> set[str]:
    """Return the names of a test's fixtures, also of those that it asks `request` for."""
    names = set(getattr(item, "fixturenames", ()))
    if "request" in names and hasattr(item, "callspec"):
        names |= {value for value in item.callspec.params.values() if isinstance(value, str)}
    return names


class EngineStarts:
    """A plugin that fails a test or a fixture that starts an engine and is not known for it."""

    def __init__(self, commands: Sequence[str] = COMMANDS) -> None:
        self._commands = commands
        self._processes = 0
        sys.addaudithook(self._count_processes)

    def _count_processes(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            command = list(arguments[1])
            self._processes += any(
                flag == "-m" and module in self._commands for flag, module in pairwise(command)
            )

    def _count(self) -> int:
        inprocess = sys.modules.get("bench.inprocess")
        return self._processes + (len(inprocess.ENGINES) if inprocess else 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        before = self._count()
        result = yield
        if self._count() > before and fixturedef.argname not in (*SERVERS, *ENGINES):
            pytest.fail(f"fixture {fixturedef.argname!r} starts an engine: list it in {__file__}")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        before = self._count()
        yield
        if self._count() > before and not is_marked(item):
            pytest.fail("this test starts an engine: mark it with @pytest.mark.engine")
