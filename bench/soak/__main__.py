"""`python -m bench.soak [--minutes 30]`: send mixed traffic; exit with 0 if nothing went wrong."""

from __future__ import annotations

import argparse
import sys

from bench.machine.environment import prepare

parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)g")


def main() -> int:
    """Run the soak, print its table and return the exit status."""
    minutes = parser.parse_args().minutes
    prepare()
    from bench.soak.report import judged
    from bench.soak.run import soak

    result = judged(soak(60 * minutes))
    return 0 if result.value == 0 and result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
