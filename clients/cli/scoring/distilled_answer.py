"""An answer with what its composition thought at every token: a line of `composer distil`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.client import Client

    Likeliest = Sequence[Mapping[str, float] | None]
    """Of each place: the log-probability in nats by token."""

_IMPOSSIBLE = -9999.0
"""The server's log-probability of a token that a filter drops."""

_PREFIX = "token_id:"
_AS_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}


def distil(
    client: Client, beginning: Mapping[str, Any], top_k: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the answer to a prompt or to messages, with the likeliest tokens at every place.

    Args:
        client: asks the server.
        beginning: `prompt` or `messages`.
        top_k: how many tokens of each place.
        options: further arguments of `Client.chat` and `Client.complete`.

    Returns:
        the fields of a line: for an answer of T tokens, `token_ids` `[T]`, and `top_token_ids` and
        `top_logprobs` `[T][top_k]`, the likeliest first. The token of the answer is always among
        them, if need be in the last place; tokens that a filter drops are not.

    Raises:
        ClientError: the server refuses the request, or does not report token ids.
    """
    asked = {**options, "logprobs": top_k, "extra": _AS_IDS}
    likeliest: Likeliest
    if "messages" in beginning:
        chat = client.chat(beginning["messages"], **asked)
        text, reason = chat.text, chat.choices[0].finish_reason
        prompt_ids, ids = chat.prompt_token_ids, chat.choices[0].token_ids
        places = chat.choices[0].logprobs and chat.choices[0].logprobs.content
        likeliest = [{top.token: top.logprob for top in at.top_logprobs} for at in places or ()]
    else:
        answer = client.complete(beginning["prompt"], **asked)
        text, reason = answer.text, answer.choices[0].finish_reason
        prompt_ids, ids = answer.choices[0].prompt_token_ids, answer.choices[0].token_ids
        logprobs = answer.choices[0].logprobs
        likeliest = (logprobs and logprobs.top_logprobs) or ()
    return {
        "text": text,
        "finish_reason": reason,
        **_tokens(prompt_ids, ids, likeliest, top_k),
    }


def _tokens(
    prompt_ids: Sequence[int] | None,
    ids: Sequence[int] | None,
    likeliest: Likeliest,
    top_k: int,
) -> dict[str, Any]:
    from clients.errors import InvalidResponse

    if prompt_ids is None or ids is None or len(likeliest) != len(ids):
        raise InvalidResponse(
            "the answer does not report its token ids and their log-probabilities. Check that the "
            "base URL is that of a composer server"
        )
    ranked = [
        _ranked(values or {}, token, top_k) for values, token in zip(likeliest, ids, strict=True)
    ]
    return {
        "prompt_token_ids": list(prompt_ids),
        "token_ids": list(ids),
        "top_token_ids": [[token for token, _ in place] for place in ranked],
        "top_logprobs": [[logprob for _, logprob in place] for place in ranked],
    }


def _ranked(values: Mapping[str, float], token: int, top_k: int) -> list[tuple[int, float]]:
    """Return the likeliest `top_k` tokens, in place of the last one `token` if it is not there."""
    by_id = {int(name.removeprefix(_PREFIX)): value for name, value in values.items()}
    ranked = sorted(by_id.items(), key=lambda pair: (-pair[1], pair[0]))
    kept = [pair for pair in ranked[:top_k] if pair[1] > _IMPOSSIBLE]
    if token in by_id and all(id != token for id, _ in kept):
        kept[top_k - 1 :] = [(token, by_id[token])]
    return kept
