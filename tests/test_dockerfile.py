"""The Dockerfile says what the rest of the repository says; a build would need a daemon."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from scripts.locks import read_pins

ROOT = Path(__file__).resolve().parent.parent


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) in order; continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in found]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def vllm_pin(extra: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pin,) = [
        requirement.partition("==")[2]
        for requirement in project["project"]["optional-dependencies"][extra]
        if requirement.startswith("vllm")
    ]
    return str(pin)


def test_the_base_is_the_image_of_the_pinned_version() -> None:
    assert values("ARG") == [f"BASE_IMAGE=vllm/vllm-openai:v{vllm_pin('cuda')}"]
    assert values("FROM") == ["${BASE_IMAGE}"]
    assert vllm_pin("cpu") == vllm_pin("cuda")


def test_it_does_not_run_as_root() -> None:
    *_, user = values("USER")
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user)
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))


def test_every_source_exists_and_travels_to_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for value in values("COPY") for word in value.split()[:-1]]
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
    assert "/health" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


def test_it_serves_with_the_runner_that_we_support() -> None:
    assert json.loads(values("ENTRYPOINT")[0])[:3] == ["python3", "-m", "server"]
    assert "VLLM_USE_V2_MODEL_RUNNER=0" in values("ENV")
    assert json.loads(values("VOLUME")[0]) == ["/models", "/adapters", "/state"]


def test_what_it_adds_is_what_the_lock_pins() -> None:
    pins = set(read_pins(ROOT / "requirements" / "image.lock", "linux"))
    assert pins
    assert pins <= set(read_pins(ROOT / "requirements" / "cuda.lock", "linux"))
