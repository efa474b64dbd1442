"""`python -m tests.adapters.fetch.fetcher`: fetch what lines of JSON ask for, in one process.

huggingface_hub reads its environment at its import, and limits of the system hold for a process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from adapters.fetch.sources import SourceRules, fetch
from composer.errors import ComposerError


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.update(request["environment"])
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        most = request["largest_file"] or limits[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        root = Path(request["root"]) if request["root"] else None
        try:
            rules = SourceRules(root, tuple(request["remote"]), request["max_bytes"])
            origin = fetch(request["source"], Path(request["destination"]), rules)
            answer = {"origin": origin}
        except ComposerError as error:
            answer = {"error": {"code": error.code, "message": error.message}}
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
