"""Compare an adapter in the engine with PEFT on the same prompt (`--verify-adapters`)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from adapters import AdapterError, Generation
from composer.errors import EngineFault
from server.engine.port import Engine
from server.engine.residency import Verify

_ROOT = Path(__file__).resolve().parents[2]
_TOLERANCE: Mapping[str, float] = {"float32": 1e-3}
_HALF_TOLERANCE = 0.25
"""Largest accepted difference of a log-probability, in nats. Half precision has 8 or 11 significant
bits and logits reach a few tens; an adapter that is partly ignored differs by more."""


def against_peft(engine: Engine, folders: Mapping[str | None, Path]) -> Verify:
    """Return a check for `Loader`. `folders` maps models to their folders; None is the base."""

    async def verify(generation: Generation) -> None:
        probe = await engine.probe(generation)
        base = folders[generation.model]
        expected = await _peft(base, generation.path, probe.prompt, tuple(probe.logprobs))
        worst, token = max(
            (abs(logprob - expected[token]), token) for token, logprob in probe.logprobs.items()
        )
        tolerance = _TOLERANCE.get(probe.dtype, _HALF_TOLERANCE)
        if not worst <= tolerance:  # also true for NaN
            raise AdapterError(
                generation.alias,
                generation.path,
                f"the engine and PEFT disagree by {worst:.3g} nats on token {token} after a fixed "
                f"prompt, more than {tolerance:g} in {probe.dtype}",
                "Part of it is not applied here; train it on modules that vLLM runs with LoRA",
            )

    return verify


async def _peft(
    base: Path, adapter: Path, prompt: tuple[int, ...], tokens: tuple[int, ...]
) -> dict[int, float]:
    """Return PEFT's log-probabilities, from a process with its own copy of the model."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "composer.reference.probe", str(base), str(adapter)),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, log = await process.communicate(json.dumps({"prompt": prompt, "tokens": tokens}).encode())
    if process.returncode:
        raise EngineFault(
            f"PEFT could not load the adapter to compare: {log.decode(errors='replace')[-500:]}"
        )
    return dict(zip(tokens, json.loads(out), strict=True))
