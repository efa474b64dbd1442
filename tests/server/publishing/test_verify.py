"""The comparison of an engine's adapter with PEFT."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from adapters import AdapterError, Generation
from composer.reference.oracle import Oracle
from server.engine.port import Engine, Probe
from server.publishing.verify import against_peft

PROMPT = tuple(range(20, 50))


class Seen:
    """What an engine saw after the prompt, computed by the oracle under some adapter."""

    def __init__(self, oracle: Oracle, adapter: str | None) -> None:
        best = oracle.logits(adapter, PROMPT)[-1].log_softmax(-1).topk(20)
        logprobs = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        self._probe = Probe(PROMPT, logprobs, "float32")

    async def probe(self, generation: Generation) -> Probe:
        return self._probe


@pytest.mark.slow
def test_agreement_and_disagreement(zoo_base: Path, zoo_adapters: dict[str, Path]) -> None:
    oracle = Oracle(zoo_base, {"polite": zoo_adapters["polite"]})
    generation = Generation("polite", "0" * 64, zoo_adapters["polite"], 16, 1)

    def verify(applied: str | None) -> None:
        engine = cast(Engine, Seen(oracle, applied))
        asyncio.run(against_peft(engine, {None: zoo_base})(generation))  # type: ignore[arg-type]

    verify("polite")
    with pytest.raises(AdapterError, match="PEFT disagree"):
        verify(None)
