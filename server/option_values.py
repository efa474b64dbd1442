"""Values of command-line options: parsed, and refused with a reason."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer.errors import CompositionError
from composer.fields import MAX_EXPERTS
from composer.plan import Limits
from composer.request import parse_composition
from server.startup.auxiliary_models import AuxiliaryOption

MIXTURE_OPTIONS = ("top_k", "explain", "none")
"""Fields of a mixture that the default router may have besides its own."""

_MIN_KEY_CHARACTERS = 16


def read_pairs(option: str, groups: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Return the pairs of an option `name=path,name=path`. Raise `ValueError` if malformed."""
    pairs = []
    for pair in [pair for group in groups for pair in group.split(",") if pair]:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise ValueError(f"{option}: '{pair}' is not of the form name=path")
        pairs.append((name, Path(path)))
    return tuple(pairs)


def read_admin_key(file: Path | None) -> str | None:
    """Return the administrators' key, from the file or from the environment.

    Raises:
        ValueError: the file cannot be read, or the key is too short.
    """
    key = os.environ.get("COMPOSER_ADMIN_KEY") or None
    origin = "COMPOSER_ADMIN_KEY"
    if file is not None:
        origin = f"--admin-key-file {file}"
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{origin}: {error}") from error
    if key is not None and len(key) < _MIN_KEY_CHARACTERS:
        raise ValueError(
            f"{origin}: the key has {len(key)} characters; use at least {_MIN_KEY_CHARACTERS}, "
            "e.g. the output of `openssl rand -hex 32`"
        )
    return key


def auxiliary_model(text: str) -> AuxiliaryOption:
    """Parse a value of `--auxiliary`."""
    try:
        return AuxiliaryOption.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def default_router(text: str) -> Mapping[str, object]:
    """Parse the value of `--default-router`: a router, with other fields of a mixture.

    `none` is true unless the value says otherwise, if the router compares examples.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"the value is not JSON: {error}") from None
    router = dict(value) if isinstance(value, dict) else {"kind": value}
    options = {name: router.pop(name) for name in MIXTURE_OPTIONS if name in router}
    top_k = options.get("top_k")
    # Check the router in a mixture of as many experts as it runs.
    count = min(top_k, MAX_EXPERTS) if isinstance(top_k, int) else 2
    experts = [f"expert{n}" for n in range(max(count, 1))]
    composition = {"recipe": "mixture", "experts": experts, "router": router, **options}
    try:
        limits = Limits(max_members=MAX_EXPERTS)
        plan = parse_composition(composition, known=experts, limits=limits, param="the mixture")
    except CompositionError as error:
        raise argparse.ArgumentTypeError(error.message) from None
    if plan.mixture is not None and plan.mixture.needs_examples:
        options.setdefault("none", True)
    return {**router, **options}


def positive_number(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def seconds(text: str) -> float:
    """Parse a duration."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def port_number(text: str) -> int:
    """Parse a TCP port; 0 stands for any free one."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 65535")
    return value


def positive_integer(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value
