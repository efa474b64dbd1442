"""The Dockerfile says what the rest of the repository says. `make image-check` builds it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any, cast

from bench.machine import buildah
from composer.vllm.releases import SUPPORTED
from scripts import libraries
from scripts.locks import read_pins
from server import server_options

ROOT = Path(__file__).resolve().parent.parent
ROUTER = "deploy/router.Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) in order; continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in found]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return cast(dict[str, Any], tomllib.loads(text)["project"])


def arguments() -> dict[str, str]:
    """The build arguments and their defaults."""
    return dict(value.split("=", 1) for value in values("ARG"))


def stage(name: str) -> str:
    """The instructions of a stage, one per line."""
    text = "\n".join(f"{instruction} {rest}" for instruction, rest in instructions())
    (found,) = [part for part in text.split("\nFROM ") if part.splitlines()[0].endswith(name)]
    return found


def test_hadolint_finds_nothing() -> None:
    command = [f"{sysconfig.get_path('scripts')}/hadolint", "Dockerfile", ROUTER]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_bases_are_pinned_arguments() -> None:
    assert arguments()["CUDA_BASE"] == f"vllm/vllm-openai:v{SUPPORTED[0]}"
    assert re.fullmatch(r"debian:\d+\.\d+-slim", arguments()["CPU_BASE"])
    assert arguments()["ENGINE"] == "cuda"
    bases = {value.split()[0] for value in values("FROM")}
    assert bases == {"${CUDA_BASE}", "${CPU_BASE}", "${ENGINE}"}


def test_the_stages_have_the_names_of_the_engines() -> None:
    names = {value.partition(" AS ")[2] for value in values("FROM")}
    assert {"cpu", "cuda"} <= names


def test_it_does_not_run_as_root() -> None:
    (user,) = values("USER")
    number, _, group = user.partition(":")
    assert int(number) >= 1000
    assert int(group) >= 1000
    assert f"useradd --uid {number} " in " ".join(values("RUN"))
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))


def test_every_source_exists_and_travels_to_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copies = [value.split() for value in values("COPY") if not value.startswith("--from")]
    sources = [word for words in copies for word in words[:-1]]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f".dockerignore keeps {source} out of the build"
    assert {"composer", "adapters", "server"} <= set(sources)
    assert "clients" not in sources, "image.lock has neither typer nor rich"


def test_it_is_checked_for_health() -> None:
    (check,) = values("HEALTHCHECK")
    assert "--start-period" in check
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python3", "-c"]
    assert "/ready" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


def test_the_server_is_the_first_process_and_gets_the_signal_that_drains_it() -> None:
    entry = json.loads(values("ENTRYPOINT")[0])
    assert entry[:3] == ["python3", "-m", "server"]
    assert {flag for flag in entry if flag.startswith("--")} <= server_options.option_names()
    assert values("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(values("VOLUME")[0]) == ["/models", "/adapters", "/state"]
    assert entry[entry.index("--adapter-store") + 1].startswith("/state/")
    assert entry[entry.index("--adapter-root") + 1] == "/adapters"


def test_the_labels_say_what_pyproject_says() -> None:
    (label,) = values("LABEL")
    named = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', label))
    assert named["title"] == project()["name"]
    assert named["version"] == project()["version"]
    assert named["licenses"] == project()["license"]
    assert named["revision"] == "${REVISION}"


def test_what_it_adds_is_what_the_locks_pin() -> None:
    pins = set(read_pins(ROOT / "requirements" / "image.lock", "linux"))
    assert pins
    assert pins <= set(read_pins(ROOT / "requirements" / "cuda.lock", "linux"))
    assert "--packages-only" in stage("cpu-packages")
    assert "scripts.setup --extra cpu" in stage("cpu-packages")


def test_the_cpu_image_has_the_system_libraries_and_no_build_tools() -> None:
    words = set(stage("AS cpu").replace("\n", " ").split())
    wanted = {
        libraries.PACKAGES["apt"]["libnuma.so.1"],
        libraries.PACKAGES["apt"]["libstdc++.so.6"],
    }
    assert wanted <= words
    assert words.isdisjoint(
        {"gcc", "g++", "make", "git", "python3-venv", "python3-pip", "python3-dev"}
    )


def test_it_names_no_package_index() -> None:
    """pip's configuration is a secret of the build: it may hold passwords."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text
    assert all("id=pip.conf" in run for run in values("RUN") if "pip install" in run)


def test_without_buildah_the_check_ends_with_what_to_install() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench.claims", "image"],
        cwd=ROOT,
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "`apt install mmdebstrap buildah" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_check_says_what_this_machine_lacks() -> None:
    tools = {"sh": "dash", "builder-of-nobody": "buildah", "root-of-nobody": "mmdebstrap"}
    lacks = buildah.missing(tools, 0)
    assert lacks is not None
    assert "`apt install buildah mmdebstrap`" in lacks
    assert "become root" not in lacks
    assert "become root" in (buildah.missing({"sh": "dash"}, 1000) or "")
    assert buildah.missing({"sh": "dash"}, 0) is None
