"""`python -m bench`: measure all claims, or those named, and print their tables."""

from __future__ import annotations

import sys

from bench.claims.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["all"]))
