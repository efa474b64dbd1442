"""The marker `engine` is true: what starts an engine without it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = """
import pytest
from tests.support.engine_marker import EngineStarts, mark_by_fixtures, write_groups

def pytest_configure(config):
    config.addinivalue_line("markers", "engine: starts an engine")
    config.pluginmanager.register(EngineStarts(["pretended"]))

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    mark_by_fixtures(items)
    if getattr(config.option, "loadgroup", False):
        write_groups(items)
"""
TESTS = """
import subprocess, sys
import pytest

def start():
    subprocess.run([sys.executable, "-m", "pretended"], check=True)

@pytest.fixture
def server():
    start()

@pytest.fixture
def unlisted():
    start()

def test_by_fixture(server): ...

@pytest.mark.parametrize("which", ["server"])
def test_by_parameter(which, request):
    request.getfixturevalue(which)

@pytest.mark.engine
def test_by_hand():
    start()

@pytest.mark.parametrize("role", ["server"])
def test_without_an_engine(role): ...

def test_unannounced():
    start()

def test_unlisted(unlisted): ...
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Tests that start a module as if it were the server; it does nothing."""
    pytester.syspathinsert(ROOT)
    pytester.makepyfile(pretended="", test_it=TESTS)
    pytester.makeconftest(CONFTEST)
    return pytester


def test_unannounced_starts_fail(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("-p", "no:xdist")
    result.assert_outcomes(passed=4, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*mark it with @pytest.mark.engine*"])
    result.stdout.fnmatch_lines(["*fixture 'unlisted' starts an engine: list it in *"])


def test_the_marker_selects_what_starts_an_engine(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("-p", "no:xdist", "-m", "engine", "-v")
    result.assert_outcomes(passed=3, deselected=3)
    result = project.runpytest_inprocess("-p", "no:xdist", "-m", "not engine", "-k", "without")
    result.assert_outcomes(passed=1, deselected=5)


@pytest.mark.slow
def test_the_users_of_a_server_run_on_one_worker(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    test = """
        import pytest

        @pytest.fixture
        def {fixture}(worker_id):
            with open("{fixture}", "a") as file:
                print(worker_id, file=file)

        @pytest.mark.parametrize("n", range(4))
        def test_it({fixture}, n): ...
    """
    files = {f"test_{i}": test.format(fixture=("server", "admin")[i % 2]) for i in range(4)}
    pytester.makepyfile(**files)
    command = ("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        pytester.runpytest_subprocess(*command).assert_outcomes(passed=16)
    workers = [set((pytester.path / name).read_text().split()) for name in ("server", "admin")]
    assert [len(each) for each in workers] == [1, 1]
    assert workers[0] != workers[1]
