"""Calls that score texts under compositions, find the weights of a composition, and compare many.

An item is `{"prompt": ..., "completion": ...}` or `{"messages": [...], "completion": ...}`; prompt
and completion are texts or token ids. A request takes up to 1024 items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clients.call import Call, condition, reader
from clients.calls import Composition
from clients.scoring.scoring_responses import FittedComposition, ScoredItems
from clients.scoring.sweep_responses import SweptGrid

Item = Mapping[str, object]


def score(
    items: Sequence[Item],
    *,
    model: str | None = None,
    composition: Composition | None = None,
    compositions: Sequence[Composition] | None = None,
    members: bool | None = None,
    divergences: bool | None = None,
) -> Call[ScoredItems]:
    """POST /compose/score: log-probabilities of completions, without generating anything.

    Args:
        items: what to score, each with what stands before it.
        model: the base model, an adapter, a stored composition or a formula; the base by default.
        composition: in place of `model`: what to compute.
        compositions: in place of both: several that score the same items. Sums without filters
            share one pass of their members.
        members: score the items under every member alone as well.
        divergences: say how far the first of `compositions` is from each: the Kullback-Leibler
            divergence in front of every token. All must be sums without filters.

    Raises:
        ValueError: more than one of `model`, `composition` and `compositions` is given.
    """
    asked = {"model": model, "composition": composition, "compositions": compositions}
    if len(given := _present(asked)) > 1:
        raise ValueError(f"{' and '.join(given)} contradict each other; give one")
    options = _present({"members": members, "divergences": divergences})
    body = {"items": list(items), **given, **options}
    return Call("POST", "/compose/score", body, reader(ScoredItems))


def fit(
    items: Sequence[Item],
    *,
    formula: str | None = None,
    experts: Sequence[str] | None = None,
    start: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    held_out: float | None = None,
    ridge: float | None = None,
    max_passes: int | None = None,
    name: str | None = None,
    if_match: int | None = None,
    if_none_match: bool = False,
) -> Call[FittedComposition]:
    """POST /compose/fit: the weights that give examples the highest probability.

    If the fit converges but its name cannot be stored any more, `stored` is None and a warning says
    why. Many examples take longer than the default timeout; see `clients.client_settings.Timeouts`.

    Args:
        items: examples, each the wanted completion of a prompt or a conversation.
        formula: a sum with free names, such as `chat + a*(polite - rude)`.
        experts: in place of `formula`: the experts of a mixture with fixed weights.
        start: values of free names to start from; 0 by default.
        bounds: the lowest and the highest value of free names.
        held_out: share of the examples that judge the result instead of being learned from.
        ridge: how strongly values are pulled towards the start.
        max_passes: how often the examples are read at most.
        name: store the fitted composition under this name, if the search converges.
        if_match: with `name`: only if it is at this version.
        if_none_match: with `name`: only if it does not exist or was deleted.

    Raises:
        ValueError: not exactly one of `formula` and `experts` is given; both conditions are, or
            one without a name.
    """
    headers = condition(if_match, if_none_match=if_none_match)
    if headers and name is None:
        raise ValueError("if_match and if_none_match are conditions on a name; give name as well")
    if (formula is None) == (experts is None):
        raise ValueError("give either a formula or experts")
    options = {"start": start, "bounds": bounds, "held_out": held_out, "ridge": ridge}
    body = {
        "items": list(items),
        **_present({"formula": formula, "experts": experts, "max_passes": max_passes, **options}),
        **_present({"name": name}),
    }
    return Call("POST", "/compose/fit", body, reader(FittedComposition), headers=headers)


def sweep(
    formula: str,
    *,
    values: Mapping[str, Sequence[float]] | None = None,
    points: Sequence[Mapping[str, float]] | None = None,
    prompt: str | Sequence[int] | None = None,
    messages: str | Sequence[Mapping[str, object]] | None = None,
    reference: str | Sequence[int] | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
) -> Call[SweptGrid]:
    """POST /compose/sweep: one prompt, answered with every weight of a grid of at most 64 points.

    Args:
        formula: a sum with free names, such as `chat + a*(polite - rude)`.
        values: values of each free name; the grid has every combination.
        points: in place of `values`: the values of all free names at each point.
        prompt: what to continue, a text or token ids.
        messages: in place of `prompt`: a conversation, or the text of a single user message.
        reference: an answer whose log-probability is computed at each point, too.
        max_tokens: longest answer; 128 by default.
        temperature: 0 by default, so that answers differ by their weights only.
        top_p, seed, stop: as of `clients.calls.chat`.

    Raises:
        ValueError: not exactly one of `values` and `points`, or of `prompt` and `messages`.
    """
    if (values is None) == (points is None):
        raise ValueError("give either values or points")
    if (prompt is None) == (messages is None):
        raise ValueError("give either a prompt or messages")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    grid = {"formula": formula, "values": values, "points": points}
    texts = {"prompt": prompt, "messages": messages, "reference": reference}
    sampling = {"temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop}
    body = _present({**grid, **texts, "max_tokens": max_tokens, **sampling})
    return Call("POST", "/compose/sweep", body, reader(SweptGrid))


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
