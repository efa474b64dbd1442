"""`python -m experts model`: print the folder of the base model; download it if necessary."""

from __future__ import annotations

import argparse
import sys

from experts.base_model import base_model
from experts.cache import ChecksumMismatch, PackageUnavailable


def main() -> int:
    """Parse the command line and run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experts", description="Real-text adapters.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("model", help="print the folder of the base model, made if necessary")
    parser.parse_args()
    try:
        print(base_model())
    except (PackageUnavailable, ChecksumMismatch) as error:
        print(f"experts: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
