"""The parts of the check, each in a process of its own: `python -m bench.gpu.parts NAME`.

A part that fails ends its process alone, and its memory is free for the next one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from bench.machine.environment import prepare

CHECKS = ("environment", "methods", "pressure")
FIGURES = ("base", "composed", "auxiliary", "transformers")
"""Functions of `bench.gpu.checks` and of `bench.gpu.figures`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one part and write its sections as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.parts", description=__doc__)
    parser.add_argument("name", choices=(*CHECKS, *FIGURES))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bytes-per-s", type=float, default=0.0)
    parser.add_argument("--shape")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    prepare()
    import torch  # after prepare(): torch and vLLM read the environment as they are imported

    from bench.gpu import checks, figures
    from bench.gpu.part import Part
    from bench.streams import without_streams

    torch.set_grad_enabled(False)
    part = Part(
        options.seconds, options.shape, quick=options.quick, bytes_per_s=options.bytes_per_s
    )
    run = getattr(checks if options.name in CHECKS else figures, options.name)
    if not part.cuda:
        # vLLM's bfloat16 attention leaves it to others to ask Linux for AMX, without which it dies.
        torch.cpu._init_amx()
    with nullcontext() if part.cuda else without_streams():
        sections = run(part)
    options.output.write_text(json.dumps(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
