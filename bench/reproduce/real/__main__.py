"""`python -m bench.reproduce.real NAME`: measure on SmolLM2, and write tables and plots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench.machine.environment import prepare
from bench.reproduce.readme import write

README = Path(__file__).resolve().parent / "README.md"
NAMES = ("context_aware", "dexperts", "proxy_tuning", "merged", "answer_key")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named reproductions with one engine."""
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce.real", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    name = parser.parse_args(arguments).name
    prepare()
    # After prepare(): they import torch and vLLM.
    from bench.reproduce.real.model import RealModel
    from experts import ADAPTERS

    model = RealModel(ADAPTERS)
    for section in NAMES if name == "all" else [name]:
        module = import_module(f"bench.reproduce.real.{section}")
        report = module.report(module.measure(model))
        print(f"{section}:\n\n{report.text}", flush=True)
        write(section, report, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())
