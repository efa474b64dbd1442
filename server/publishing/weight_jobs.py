"""Adapters computed from others: merged, extracted from a full fine-tune, or carried to this base.

Each job of `adapters.weight_space.jobs` runs in a process of its own, so that minutes of computing
hold neither the event loop nor the memory of this one. The result is published like any other
adapter.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters import (
    CONFIG,
    WEIGHTS,
    MergeError,
    SourceError,
    SourceRules,
    Store,
    StoreFullError,
    fetch,
)
from adapters.weight_space.extract import ExtractSpec
from adapters.weight_space.jobs import read_job
from adapters.weight_space.merge import MergeSpec
from composer.errors import EngineFault, quoted
from composer.fields import Fields, Number
from server.publishing.publisher import Fetch

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]


class ExtractBody(ExtractSpec):
    """An extraction from a full fine-tune of the base model that is served."""

    tuned: str
    """Folder of the fine-tuned model, below that of --adapter-root."""


class PatchBody(Fields):
    """An adapter of an earlier version of the base model, carried over to the one served."""

    source: str
    """Where the adapter comes from: as the `source` of a publication."""

    scale: Number = 1.0
    """What the adapter's change is multiplied with."""


class WeightSpace:
    """Computes adapters for the base model in the folder `base`."""

    def __init__(self, store: Store, rules: SourceRules, base: Path) -> None:
        self._store = store
        self._rules = rules
        self._base = base

    def merge(self, spec: MergeSpec) -> Fetch:
        """Merge served adapters, named by their aliases."""

        def merged(destination: Path) -> Mapping[str, object]:
            aliases = [member.adapter for member in spec.adapters]
            digests = {alias: str(self._store.current(alias).digest) for alias in aliases}
            bound = [
                {"adapter": str(self._store.stored(digests[m.adapter]).path), "weight": m.weight}
                for m in spec.adapters
            ]
            report = run_job("merge", spec.to_json() | {"adapters": bound}, destination)
            return {"merge": spec.to_json(), "inputs": digests, "report": report}

        return merged

    def extract(self, body: ExtractBody) -> Fetch:
        """Extract an adapter from a full fine-tune of the base."""

        def extracted(destination: Path) -> Mapping[str, object]:
            folders = {"base": str(self._base), "tuned": str(_below(self._rules.root, body.tuned))}
            report = run_job("extract", body.model_dump() | folders, destination)
            return {"extract": body.model_dump(exclude_unset=True), "report": report}

        return extracted

    def patch(self, body: PatchBody) -> Fetch:
        """Carry an adapter of an earlier base over to the one that is served."""

        def patched(destination: Path) -> Mapping[str, object]:
            with tempfile.TemporaryDirectory(dir=destination) as scratch:
                adapter = Path(scratch, "source")  # errors of the job name the adapter so
                adapter.mkdir()
                origin = fetch(body.source, adapter, self._rules)
                job = {"adapter": str(adapter), "to": str(self._base), "scale": body.scale}
                try:
                    report = run_job("patch", job, destination)
                except MergeError as error:  # whoever publishes knows nothing of `scratch`
                    message = error.message.replace(f" ({adapter})", "")
                    raise MergeError(message, param=error.param) from error
            patch = body.model_dump(exclude_unset=True)
            return {"patch": patch, "of": origin, "report": report}

        return patched


def _below(root: Path | None, path: str) -> Path:
    """Return the folder `path` below the adapter root, symbolic links resolved."""
    if root is None:
        raise SourceError(
            f"extract.tuned is {quoted(path)}, but this server has no folder of adapters. Start it "
            "with --adapter-root.",
            param="extract.tuned",
        )
    folder = (root / path).resolve()
    if not folder.is_relative_to(root.resolve()) or not folder.is_dir():
        raise SourceError(
            f"{quoted(path)} is not a folder below that of --adapter-root. Put the model there.",
            param="extract.tuned",
        )
    return folder


def run_job(kind: str, job: Mapping[str, Any], destination: Path) -> object:
    """Compute a job in a process of its own, write the adapter's two files, return the report.

    Raises:
        MergeError: the adapter cannot be computed as asked.
        StoreFullError: the disk is full.
        EngineFault: the process ended without an answer.
    """
    read_job(kind, job)
    with tempfile.TemporaryDirectory(dir=destination) as out:
        request = {"kind": kind, "job": dict(job), "destination": out}
        done = subprocess.run(
            [sys.executable, "-m", "adapters.weight_space"],
            cwd=_ROOT,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stderr:
            logger.warning("The process that computes adapters wrote:\n%s", done.stderr.rstrip())
        if (status := done.returncode) != 0:
            end = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            raise EngineFault(
                f"the process that computes adapters ended with {end}. Its log is the server's; "
                "SIGKILL is mostly for want of memory."
            )
        answer = json.loads(done.stdout)
        if (error := answer.get("error")) is not None:
            if error["full"]:
                raise StoreFullError(
                    f"the adapter could not be computed: {error['message']}. Make room on the disk "
                    "of the adapter store; nothing was published."
                )
            raise MergeError(error["message"], param=error["param"])
        for name in (CONFIG, WEIGHTS):
            shutil.move(Path(out, name), destination / name)
    return answer["report"]
