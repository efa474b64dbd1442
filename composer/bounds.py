"""Bounds of a request on the token lists that the engine keeps in tables of fixed size.

vLLM's V2 model runner raises in the middle of a step, which ends the engine, if a request does not
fit its tables (`vllm/v1/worker/gpu/sample/logit_bias.py`). Front end and engine refuse such a
request earlier, with either model runner, so that both accept the same requests.
"""

from __future__ import annotations

MAX_STOP_TOKENS = 128
"""Stop tokens of one request (`stop_token_ids`)."""

MODEL_STOP_TOKENS = 16
"""Of these, how many are reserved for the model's own stop tokens (`eos_token_id`, a list in its
generation config). With `min_tokens` they share the table with the request's, even under
`ignore_eos`."""

MAX_ALLOWED_TOKENS = 1024
"""Entries of `allowed_token_ids`."""

MAX_BIASED_TOKENS = 1024
"""Entries of `logit_bias`."""

MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
"""Bounds of `repetition_penalty` in a composed request. A penalty multiplies or divides logits;
within these bounds it makes no filtered token possible (`composer.tensors.demote.DISTANCE`)."""


def check_repetition_penalty(penalty: float) -> None:
    """Refuse a penalty that could make the filtered tokens of a composed request possible.

    Raises:
        ValueError: naming the field, its value and the bounds.
    """
    if not MIN_REPETITION_PENALTY <= penalty <= MAX_REPETITION_PENALTY:
        raise ValueError(
            f"'repetition_penalty' is {penalty:g}; beside a composition it may be "
            f"{MIN_REPETITION_PENALTY:g} to {MAX_REPETITION_PENALTY:g}"
        )


def check_token_lists(*, stop: int, allowed: int, biased: int, min_tokens: int = 0) -> None:
    """Refuse lists of tokens whose lengths exceed the tables.

    Raises:
        ValueError: naming the field, its length and the bound.
    """
    max_stops = MAX_STOP_TOKENS - (MODEL_STOP_TOKENS if min_tokens > 0 else 0)
    for field, length, bound in (
        ("stop_token_ids", stop, max_stops),
        ("allowed_token_ids", allowed, MAX_ALLOWED_TOKENS),
        ("logit_bias", biased, MAX_BIASED_TOKENS),
    ):
        if length > bound:
            beside = " with 'min_tokens'" if field == "stop_token_ids" and min_tokens > 0 else ""
            raise ValueError(
                f"'{field}' has {length} entries; one request may have at most {bound}{beside}"
            )
