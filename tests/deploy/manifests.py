"""What deploy/ holds: the chart as Helm renders it, and the files beside it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
EXAMPLE = DEPLOY / "example.yaml"
ALERTS = CHART / "files" / "alerts.yaml"

needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not installed: https://helm.sh/docs/intro/install"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: it is in Debian's package prometheus",
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository; its streams are text."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def render(*options: str) -> list[dict[str, Any]]:
    """Render the chart by Helm, as the release `composer`."""
    done = run("helm", "template", "composer", str(CHART), *options)
    assert done.returncode == 0, done.stderr
    return manifests(done.stdout)


def manifests(text: str) -> list[dict[str, Any]]:
    """Read the objects of a file."""
    return [document for document in yaml.safe_load_all(text) if document]


def rendered_example() -> list[dict[str, Any]]:
    """Read deploy/kubernetes.yaml, which a test compares with what Helm renders."""
    return manifests((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one object of a kind."""
    [found] = [document for document in objects if document["kind"] == kind]
    return found


def read_yaml(path: Path) -> Any:
    """Read a file of one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
