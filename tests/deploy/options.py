"""The command lines that deploy/ gives the server, by the server's own parser."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence

from server.server_options import option_parser, refuse_misspelt
from tests.deploy.manifests import ROOT

OF_VLLM = {"--max-model-len", "--served-model-name", "--tensor-parallel-size"}
"""Options of vLLM that deploy/ sets."""

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def image_volumes() -> set[str]:
    """Return the folders of the image that are volumes."""
    [volumes] = re.findall(r"^VOLUME (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return set(json.loads(volumes))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line of the server; fail for options that neither it nor vLLM has."""
    parser = option_parser()
    options, rest = parser.parse_known_args(arguments)
    refuse_misspelt(parser, rest)
    unknown = {word for word in rest if word.startswith("--")} - OF_VLLM
    assert not unknown, f"no option of the server: {sorted(unknown)}"
    return options
