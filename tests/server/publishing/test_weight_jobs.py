"""What the server says of a job whose process fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import MergeError
from composer.errors import EngineFault
from server.publishing.weight_jobs import run_job

NOISE = "a library wrote this"


def test_a_killed_process_names_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What libraries wrote before is in the log, not in the answer."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"sys.stderr.write({NOISE!r})\n"
        "sys.stderr.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    with pytest.raises(EngineFault, match="SIGKILL") as caught:
        run_job("extract", {"base": "a", "tuned": "b", "rank": 2}, tmp_path)
    assert NOISE not in caught.value.message
    assert NOISE in caplog.text


def test_a_mistake_that_no_check_foresees_is_the_clients(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors.index.json").write_text("[" * 10**6)
    folders = {"base": str(model), "tuned": str(model)}
    with pytest.raises(MergeError) as caught:
        run_job("extract", {**folders, "rank": 2}, tmp_path)
    assert "Traceback" not in caught.value.message
    assert "\n" not in caught.value.message
