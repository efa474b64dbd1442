"""Set-up of the development and serving environment, and the start of the server by `make`.

All but `serve` needs only the standard library. Every Python reads this file before any other of
the package, even Python 2.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036 - the other files would be syntax errors there
    sys.exit(
        "setup: Python {}.{} is too old; vLLM needs 3.11 or newer. "
        "Install one and run `make PYTHON=python3.12 ...`.".format(*sys.version_info)
    )
