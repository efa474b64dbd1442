"""A job in a process of its own: what it reads, answers, and how many threads it takes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import MergeError
from adapters.inspection.inspect import inspect
from adapters.weight_space.jobs import ExtractJob, compute, read_job, usable_cores
from tests.adapters.weight_space.merge.samples import distance, products, write

ROOT = Path(__file__).resolve().parents[3]


def run(request: object, max_file_bytes: int | None = None, **environment: str) -> Any:
    """What `python -m adapters.weight_space` answers to `request`."""

    def limit() -> None:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    done = subprocess.run(
        [sys.executable, "-m", "adapters.weight_space"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | environment,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def merge_of(*folders: Path, **more: Any) -> dict[str, Any]:
    return {"method": "sum", "adapters": [{"adapter": str(f)} for f in folders], **more}


def test_the_process_computes_what_the_command_line_computes(tmp_path: Path) -> None:
    job = merge_of(write(tmp_path / "a", 1), write(tmp_path / "b", 2))
    answer = run({"kind": "merge", "job": job, "destination": str(tmp_path / "process")})
    report = compute(read_job("merge", job), tmp_path / "here")
    assert distance(products(tmp_path / "process"), products(tmp_path / "here")) < 1e-6
    assert answer["report"]["rank"] == report.to_json()["rank"]
    assert inspect(tmp_path / "process", "a").digest == inspect(tmp_path / "here", "a").digest


@pytest.mark.slow
def test_the_threads_of_the_process_are_bounded(tmp_path: Path) -> None:
    """Spinning BLAS threads beside a busy engine made a merge of one second take 82."""
    request = {
        "kind": "merge",
        "job": merge_of(write(tmp_path / "a", 1)),
        "destination": str(tmp_path / "out"),
    }
    cores = os.cpu_count() or 1
    assert 1 <= run(request)["threads"] <= max(1, cores // 2)
    assert run(request, OMP_NUM_THREADS="1")["threads"] == 1
    # Without the bound torch takes all cores that it is told of.
    assert run(request, OMP_NUM_THREADS=str(2 * cores))["threads"] <= max(1, cores // 2)


def test_the_cores_that_a_process_may_use(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    none, quota = tmp_path / "none", tmp_path / "cpu.max"
    assert usable_cores(none) == len(before)
    quota.write_text("max 100000\n")
    assert usable_cores(quota) == len(before)
    for text in ("100000 100000\n", "50000 100000\n", "199999 100000\n"):
        quota.write_text(text)
        assert usable_cores(quota) == 1
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores(none) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_refusals_come_back_as_json(tmp_path: Path) -> None:
    adapter = write(tmp_path / "a", 1)
    out = str(tmp_path / "out")
    wrong = run({"kind": "merge", "job": merge_of(adapter, rank=8), "destination": out})
    assert wrong["error"]["param"] == "merge.rank"
    assert "leave it out" in wrong["error"]["message"]
    missing = run({"kind": "merge", "job": merge_of(tmp_path / "b"), "destination": out})
    assert "no such folder" in missing["error"]["message"]
    model = {"base": str(tmp_path), "tuned": str(tmp_path), "rank": 2}
    none = run({"kind": "extract", "job": model, "destination": out})
    assert "no .safetensors file" in none["error"]["message"]
    assert not any(answer["error"]["full"] for answer in (wrong, missing, none))


@pytest.mark.parametrize("max_file_bytes", [100, 2000])
def test_a_full_disk_is_told_apart(tmp_path: Path, max_file_bytes: int) -> None:
    """The system refuses either the configuration or the weights."""
    job, out = merge_of(write(tmp_path / "a", 1)), str(tmp_path / "out")
    request = {"kind": "merge", "job": job, "destination": out}
    assert run(request, max_file_bytes=max_file_bytes)["error"]["full"]


def test_a_job_is_checked_before_it_starts(tmp_path: Path) -> None:
    folders = {"base": str(tmp_path), "tuned": str(tmp_path)}
    assert read_job("extract", folders | {"rank": 2}) == ExtractJob(
        base=tmp_path, tuned=tmp_path, rank=2
    )
    with pytest.raises(MergeError, match=r"patch\.to is missing"):
        read_job("patch", {"adapter": "a"})
    with pytest.raises(ValueError, match="'melt'"):
        read_job("melt", {})
