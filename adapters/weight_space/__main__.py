"""`python -m adapters.weight_space`: one job in a process of its own.

Reads from stdin `{"kind": "merge", "job": {...}, "destination": FOLDER}` and writes to stdout
`{"report": {...}, "threads": N}`, or `{"error": {"message", "param", "full"}}`, where `full` says
whether the disk is full. What libraries print goes to stderr, as does the traceback of an error
that no check foresees.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

from adapters.disk import FULL
from adapters.errors import StoreFullError
from adapters.weight_space.jobs import bound_threads, compute, read_job
from composer.errors import ComposerError


def run(text: str) -> dict[str, object]:
    """Compute the job that `text` describes and return what to print."""
    request = json.loads(text)
    try:
        job = read_job(request["kind"], request["job"])
        report = compute(job, Path(request["destination"]))
    except ComposerError as error:
        full = isinstance(error, StoreFullError)
        return {"error": {"message": error.message, "param": error.param, "full": full}}
    except Exception as error:  # of files that no check foresees; torch's have several lines
        traceback.print_exc()
        # safetensors wraps the system's errors as text.
        full = any(os.strerror(code) in str(error) for code in FULL)
        message = (str(error) or repr(error)).splitlines()[0]
        return {"error": {"message": message, "param": None, "full": full}}
    return {"report": report.to_json(), "threads": bound_threads()}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        answer = run(sys.stdin.read())
    print(json.dumps(answer))
