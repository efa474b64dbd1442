"""The rows of a composed request take over what vLLM knows of the request."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from composer.engine_plan import EnginePlan, LoadedAdapter, Row
from composer.vllm.schedule.gang import Gang, expand

BLOCK = 4
PROMPT = tuple(range(40, 52))
PLAN = EnginePlan((Row(1.0), Row(0.5, LoadedAdapter("polite", 3, "/polite")), Row(-0.5)))


def gang(**fields: Any) -> Gang:
    init_none_hash(sha256)
    leader = Request(
        request_id="r",
        prompt_token_ids=list(PROMPT),
        sampling_params=SamplingParams(max_tokens=5),
        pooling_params=None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
        **fields,
    )
    return expand(leader, PLAN, 5, BLOCK)


def test_companions_are_where_their_leader_is() -> None:
    fields = {"priority": 7, "arrival_time": 12.5, "client_index": 3, "cache_salt": "tenant"}
    for row in gang(**fields).companions:
        assert {name: getattr(row, name) for name in fields} == fields
        assert row.max_tokens == 5
        assert row.sampling_params is not None
        assert row.sampling_params.ignore_eos


def test_rows_share_prefixes_with_requests_of_their_salt_only() -> None:
    """Who salts prompts must not learn by the time of an answer what others have asked."""
    keys = [
        {key for row in gang(cache_salt=salt).rows for key in row.block_hashes}
        for salt in ("one", "two", None)
    ]
    assert all(keys)
    assert not any(a & b for a, b in combinations(keys, 2))
    again = {key for row in gang(cache_salt="one").rows for key in row.block_hashes}
    assert again == keys[0]
