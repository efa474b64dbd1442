"""Set-up of the development and serving environment; needs only the standard library.

This file is read before any other of the package, even by Python 2.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036 - what follows would be a syntax error there
    sys.exit(
        "setup: Python {}.{} is too old; vLLM needs 3.11 or newer. "
        "Install one and run `make PYTHON=python3.12 ...`.".format(*sys.version_info)
    )
