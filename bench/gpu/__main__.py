"""`python -m bench.gpu`: check that composing is right and cheap on this machine's GPU.

On CUDA the check runs in bfloat16 with CUDA graphs and async scheduling, on both model runners of
vLLM, and writes a report. On a CPU it rehearses the same steps with tiny sizes, V2 with Triton's
interpreter, and only prints the report.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.budget import share
from bench.gpu.report import Report, failed, render
from bench.machine.environment import original
from bench.machine.interpreter import FIRST, ROOT, with_interpreter
from bench.results import commit

RESULTS = ROOT / "bench" / "results"

MINUTES = {"full": 60.0, "quick": 9.0, "rehearsal": 5.0}
"""What has started ends: a part may take longer than its share."""

NO_ENGINE = ("environment", "transformers")

GRACE_S = 120.0
"""Time for the last step and for the end of a part, after which it is killed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a check failed or could not run; the report says which one."""
    options = _options(arguments)
    start = time.monotonic()
    parts: list[dict[str, Any]] = [_run("environment", "v1", 60.0, [])]
    sections = parts[0]["sections"]
    cuda = bool(sections and sections[0]["cuda"])
    bytes_per_s = str(sections[0]["bytes_per_s"]) if sections else "0"
    further = ["--bytes-per-s", bytes_per_s, *(["--quick"] if options.quick else [])]
    further += ["--shape", options.shape] if options.shape else []
    default = MINUTES[("quick" if options.quick else "full") if cuda else "rehearsal"]
    end = start + 60 * (options.minutes or default)
    plan = _plan(options.runner, cuda) if sections else []
    for index, (name, runner, _) in enumerate(plan):
        seconds = share(end - time.monotonic(), [weight for *_, weight in plan[index:]])
        print(f"{name} on {runner}, {seconds:.0f} s ...", file=sys.stderr, flush=True)
        parts.append(_run(name, runner, seconds, further, interpreted=runner == "v2" and not cuda))
    report = {
        "title": "GPU check" if cuda else "Rehearsal of the GPU check on a CPU",
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "commit": commit(),
        "command": " ".join(["python -m bench.gpu", *(arguments or sys.argv[1:])]),
        "minutes": (time.monotonic() - start) / 60,
        "cuda": cuda,
        "parts": parts,
    }
    _write(report, options.output)
    return int(failed(report))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fit into ten minutes")
    parser.add_argument("--minutes", type=float, help="time for all parts together")
    parser.add_argument(
        "--runner",
        choices=("v1", "v2", "both"),
        default="both",
        help="vLLM's model runner; with both, speed is measured on the default one",
    )
    parser.add_argument("--shape", choices=("8b", "1b", "tiny"), help="model of the speed table")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write FILE as Markdown, and JSON beside it"
    )
    return parser.parse_args(arguments)


def _plan(runner: str, cuda: bool) -> list[tuple[str, str, float]]:
    """Return parts, the runner of each, and shares of the time.

    Interpreted methods take minutes, so they come last and get what the others leave.
    """
    default = runner if runner != "both" else ("v2" if cuda else "v1")
    fast = default if cuda else "v1"  # interpreted, speed says nothing
    runners = ("v2", "v1") if runner == "both" else (runner,)
    methods = [("methods", each, 20.0) for each in runners]
    plan = [
        ("pressure", default, 8.0),
        ("base", fast, 12.0),
        ("composed", fast, 30.0),
        ("auxiliary", fast, 8.0),
        ("transformers", fast, 4.0),
    ]
    return [*methods, *plan] if cuda else [*methods[1:], *plan, *methods[:1]]


def _run(
    name: str,
    runner: str,
    seconds: float,
    further: Sequence[str],
    *,
    interpreted: bool = False,
) -> dict[str, Any]:
    """Run a part in a process of its own, and return it as the report has it."""
    start = time.monotonic()
    environment = original() | {"VLLM_USE_V2_MODEL_RUNNER": "1" if runner == "v2" else "0"}
    program = ["-m", "bench.gpu.parts"]
    error, sections = None, []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "sections.json"
        try:
            if interpreted:
                environment = with_interpreter()
                program = ["-c", f"{FIRST}from bench.gpu.parts import main\nmain()"]
            command = [sys.executable, *program, name, "--seconds", f"{seconds:.1f}"]
            done = subprocess.run(
                [*command, "--output", str(output), *further],
                cwd=ROOT,
                env=environment,
                stdout=sys.stderr,
                stderr=subprocess.PIPE,
                text=True,
                timeout=seconds + GRACE_S,
                check=False,
            )
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                error = f"status {done.returncode}: {_reason(done.stderr)}"
            else:
                sections = json.loads(output.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired as expired:
            error = f"still running after {expired.timeout:.0f} s"
        except RuntimeError as missing:  # the interpreter
            error = str(missing)
    return {
        "name": name,
        "runner": "" if name in NO_ENGINE else runner,
        "seconds": time.monotonic() - start,
        "error": error,
        "sections": sections,
    }


def _reason(text: str) -> str:
    """Return the last line that names an error, of what a process has written."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["it wrote nothing"])[-1]


def _write(report: Report, output: Path | None) -> None:
    """Print a report, and write it to a file, on CUDA by default to one named after the GPU."""
    text = render(report)
    print(text, flush=True)
    if output is None and report["cuda"]:
        device = report["parts"][0]["sections"][0]["rows"][0]["value"]
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        output = RESULTS / f"{report['date']}-{slug}.md"
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
        output.with_suffix(".json").write_text(json.dumps(report, indent=1) + os.linesep)


if __name__ == "__main__":
    sys.exit(main())
