"""The unit for systemd."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY, run
from tests.deploy.options import parse

UNIT = (DEPLOY / "composer.service").read_text(encoding="utf-8")
ROOT = "/opt/composer"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def setting(name: str) -> str:
    """Return the one value of a setting."""
    [value] = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def test_the_server_takes_its_command_line() -> None:
    command = setting("ExecStart").replace("$COMPOSER_OPTIONS", _example_options())
    program, *arguments = shlex.split(command)
    assert program == f"{ROOT}/.venv/bin/python"
    assert arguments[:2] == ["-m", "server"]
    options = parse(arguments[2:])
    assert float(setting("TimeoutStopSec")) >= options.drain_seconds + 20
    state = f"/var/lib/{setting('StateDirectory')}"
    assert str(options.adapter_store).startswith(f"{state}/")
    assert setting("Environment") == f"HOME={state}"


def _example_options() -> str:
    [example] = re.findall(r"^#\s+COMPOSER_OPTIONS=(.*)$", UNIT, re.MULTILINE)
    return str(example)


def test_an_engine_that_died_is_started_again() -> None:
    assert setting("Restart") == "on-failure"
    assert "70" not in setting("RestartPreventExitStatus").split()


def test_nothing_keeps_a_gpu_from_it() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert settings.keys().isdisjoint({"PrivateDevices", "MemoryDenyWriteExecute", "DevicePolicy"})
    assert settings["NoNewPrivileges"] == "yes"


@needs_systemd
def test_systemd_takes_it(tmp_path: Path) -> None:
    unit = tmp_path / "composer.service"
    # The program has to exist.
    text = UNIT.replace(f"{ROOT}/.venv/bin/python", sys.executable)
    unit.write_text(text, encoding="utf-8")
    done = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert done.returncode == 0, done.stderr
    assert "composer.service" not in done.stderr, done.stderr
