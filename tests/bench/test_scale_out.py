"""The claim `scale_out` in a shorter form: two servers with one store behind vllm-router."""

from __future__ import annotations

import pytest

from bench.machine.router import PACKAGES
from bench.scale_out.cluster import cluster
from bench.scale_out.failures import kill
from bench.scale_out.gateway import affinity, metrics
from bench.scale_out.one_store import read_your_writes, shared


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.skipif(not PACKAGES.is_dir(), reason="vllm-router: not installed")
def test_two_servers_and_a_death() -> None:
    with cluster({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}) as two:
        checks = [*shared(two)]
        known, _ = read_your_writes(two, rounds=2)
        checks += [*known, *metrics(two), *affinity(two)]
        killed, lost, _ = kill(two)
    assert [what for what, passed in [*checks, *killed] if not passed] == []
    assert lost == 0
