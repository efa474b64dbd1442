"""How requests look, without sending them."""

from __future__ import annotations

import inspect

import pytest

from clients import AsyncClient, Client, calls


def test_logprobs_ask_for_the_alternatives() -> None:
    assert {"logprobs": True, "top_logprobs": 0}.items() <= calls.chat(
        "Hi", logprobs=0
    ).body.items()
    assert "logprobs" not in calls.chat("Hi").body


def test_messages_are_sent_in_order() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert calls.chat(messages).body["messages"] == messages


def test_a_stream_ends_with_the_usage_unless_told_otherwise() -> None:
    assert calls.chat("Hi").stream_body()["stream_options"] == {"include_usage": True}
    chosen = {"stream_options": {"include_usage": False}}
    assert (
        calls.chat("Hi", extra=chosen).stream_body()["stream_options"] == chosen["stream_options"]
    )


@pytest.mark.parametrize("field", ["temperature", "model", "stream"])
def test_extra_cannot_repeat_a_field(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        calls.chat("Hi", temperature=0.0, extra={field: 1})


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_methods_show_the_parameters_of_their_call(client: type) -> None:
    shown = inspect.signature(client.__dict__["chat"])
    assert list(shown.parameters)[1:] == list(inspect.signature(calls.chat).parameters)
    assert client.__dict__["chat"].__doc__ == calls.chat.__doc__


def test_both_clients_offer_the_same_calls() -> None:
    def public(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
