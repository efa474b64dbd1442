"""How much one request may hold of what the engine keeps in tables of fixed size.

vLLM's V2 model runner raises in the middle of a step, which ends the engine, where a request does
not fit its tables (`vllm/v1/worker/gpu/sample/logit_bias.py`). Front end and engine refuse such a
request before, whichever runner is in use, so that what works does not depend on it.
"""

from __future__ import annotations

MAX_STOP_TOKENS = 128
"""Stop tokens of one request (`stop_token_ids`)."""

MODEL_STOP_TOKENS = 16
"""Of these, how many are kept for the ends that the model itself has (`eos_token_id`, a list in
its generation config). They stand in the table beside the request's own, also under `ignore_eos`,
where `min_tokens` makes it count."""

MAX_ALLOWED_TOKENS = 1024
"""Entries of `allowed_token_ids`."""

MAX_BIASED_TOKENS = 1024
"""Entries of `logit_bias`."""

LEAST_REPETITION_PENALTY, LARGEST_REPETITION_PENALTY = 0.01, 100.0
"""`repetition_penalty` of a composed request. It multiplies or divides logits, and within these
bounds lifts no filtered token (`composer.tensors.compose.DISTANCE`)."""


def check_repetition_penalty(penalty: float) -> None:
    """Refuse a penalty of a composed request that could bring filtered tokens back.

    Raises:
        ValueError: names the field, its value and the bounds.
    """
    if not LEAST_REPETITION_PENALTY <= penalty <= LARGEST_REPETITION_PENALTY:
        raise ValueError(
            f"'repetition_penalty' is {penalty:g}; beside a composition it may be "
            f"{LEAST_REPETITION_PENALTY:g} to {LARGEST_REPETITION_PENALTY:g}"
        )


def check_token_lists(*, stop: int, allowed: int, biased: int, min_tokens: int = 0) -> None:
    """Refuse lists of tokens that do not fit the tables, given their lengths.

    Raises:
        ValueError: names the field, its length and the bound.
    """
    most_stops = MAX_STOP_TOKENS - (MODEL_STOP_TOKENS if min_tokens > 0 else 0)
    for field, length, bound in (
        ("stop_token_ids", stop, most_stops),
        ("allowed_token_ids", allowed, MAX_ALLOWED_TOKENS),
        ("logit_bias", biased, MAX_BIASED_TOKENS),
    ):
        if length > bound:
            beside = " beside 'min_tokens'" if field == "stop_token_ids" and min_tokens > 0 else ""
            raise ValueError(
                f"'{field}' has {length} entries; the most that one request may have{beside} is "
                f"{bound}"
            )
