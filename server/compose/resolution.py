"""The outcome of resolving a request: what vLLM gets, and what its response will say."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters import Lease
from composer.plan import Plan
from server import metrics
from server.compose.response.response_fields import ResponseFields
from server.engine.port import Body, Kind
from server.engine.render_cache import RenderCache
from server.request_record import PLAIN, RequestRecord


@dataclass(frozen=True, slots=True)
class Resolution:
    """The request that vLLM gets, and everything that belongs to it until its response is complete.

    body: the request for vLLM.
    response_fields: what the response says beside vLLM's own fields.
    lease: keeps the adapters loaded; the caller must release it.
    plan: what is computed; None for a request to one adapter.
    compared_models: models that answer the same request, each alone.
    composition, recipe: name and recipe for metrics.
    rows: rows of the engine's batch, for each answer.
    render_cache: the rendered prompts; None if vLLM has not validated the body yet.
    models: the model of each row of the engine's plan; None for an added row of weight 0.
    """

    body: Body
    response_fields: ResponseFields
    lease: Lease
    plan: Plan | None = None
    compared_models: tuple[str, ...] = ()
    composition: str = PLAIN
    recipe: str = PLAIN
    rows: int = 1
    render_cache: RenderCache | None = None
    models: tuple[str | None, ...] = ()


def record_and_observe(
    kind: Kind | None, resolution: Resolution, record: RequestRecord, forces_usage: bool
) -> Resolution:
    """Record what a request composes, and return a resolution that records its tokens as well.

    vLLM reports the tokens of a streamed completion only on request; the usage is hidden from a
    client that has not asked for it.

    Args:
        kind: the route.
        resolution: of the request.
        record: of the request.
        forces_usage: whether every stream ends with its usage.
    """
    plan, body = resolution.plan, resolution.body
    adapters = resolution.response_fields.adapters or ()
    record.note_resolution(resolution.composition, resolution.recipe, plan, adapters)
    if plan is not None and plan.mixture is not None:
        metrics.count_choices(member.model for member in plan.members)
    fields = replace(resolution.response_fields, observe_usage=record.count_tokens)
    if record.composed and kind in (Kind.CHAT, Kind.COMPLETION) and body.get("stream"):
        options = body.get("stream_options") or {}
        is_valid = isinstance(options, dict)  # otherwise vLLM refuses the request
        if is_valid and not forces_usage and not options.get("include_usage"):
            usage = {"include_usage": True, "continuous_usage_stats": False}
            body = body | {"stream_options": {**options, **usage}}
            fields = replace(fields, hides_usage=True)
    return replace(resolution, body=body, response_fields=fields)
