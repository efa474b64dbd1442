"""Checks of every request that enters the engine, while it can still be answered with 400."""

from __future__ import annotations

from vllm.sampling_params import SamplingParams

from composer.bounds import check_repetition_penalty, check_token_lists
from composer.engine_plan import EnginePlan
from composer.vllm.grammars import check_grammar
from composer.vllm.schedule.gang import refuse_row_tag


def check_request(params: SamplingParams) -> None:
    """Refuse what cannot work. Sees the requests of all routes, composed or not.

    Raises:
        ValueError: the request carries a row's tag or a malformed plan, exceeds a bound of
            `composer.bounds`, or has a grammar that no answer satisfies.
    """
    check_token_lists(
        stop=len(params.stop_token_ids or ()),
        allowed=len(params.allowed_token_ids or ()),
        biased=len(params.logit_bias or ()),
        min_tokens=params.min_tokens,
    )
    check_grammar(params)
    refuse_row_tag(params.extra_args)
    plan = EnginePlan.from_extra_args(params.extra_args)
    if plan is None:
        return
    check_repetition_penalty(params.repetition_penalty)
