"""Compares an adapter in the engine with PEFT on the same prompt (`--verify-adapters`)."""

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
"""Largest difference of a log-probability, in nats. Half precision keeps 8 or 11 bits, and the
likeliest tokens have logits of some tens; an adapter that is ignored in part differs by more."""


def against_peft(engine: Engine, folders: Mapping[str | None, Path]) -> Verify:
    """A check for `Loader`. `folders` are those of the models; None is the base."""

    async def verify(generation: Generation) -> None:
        seen = await engine.probe(generation)
        base = folders[generation.model]
        expected = await _peft(base, generation.path, seen.prompt, tuple(seen.logprobs))
        worst, token = max(
            (abs(logprob - expected[token]), token) for token, logprob in seen.logprobs.items()
        )
        tolerance = _TOLERANCE.get(seen.dtype, _HALF_TOLERANCE)
        if not worst <= tolerance:  # also where it is NaN
            raise AdapterError(
                generation.alias,
                generation.path,
                f"the engine and PEFT disagree by {worst:.3g} nats on token {token} after a fixed "
                f"prompt, more than {tolerance:g} in {seen.dtype}",
                "Part of it is not applied here; train it on modules that vLLM runs with LoRA",
            )

    return verify


async def _peft(
    base: Path, adapter: Path, prompt: tuple[int, ...], tokens: tuple[int, ...]
) -> dict[int, float]:
    """What PEFT predicts, in a process of its own: it loads the model a second time."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "composer.reference.probe", str(base), str(adapter)),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate(json.dumps({"prompt": prompt, "tokens": tokens}).encode())
    if process.returncode:
        raise EngineFault(
            f"PEFT could not load the adapter to compare: {said.decode(errors='replace')[-500:]}"
        )
    return dict(zip(tokens, json.loads(out), strict=True))
