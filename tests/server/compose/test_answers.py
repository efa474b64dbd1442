"""Composed requests in every form that clients send, and ordinary ones beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from tests.support.live_server import LiveServer

FORMULA = "base + 0.5*(polite - rude)"
PLAN = {
    "formula": "base + 0.5*polite - 0.5*rude",
    "members": [
        {"model": "base", "weight": 1.0, "prompt": "request"},
        {"model": "polite", "weight": 0.5, "prompt": "request"},
        {"model": "rude", "weight": -0.5, "prompt": "request"},
    ],
    "filters": [],
}


@pytest.fixture
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", http_client=client, max_retries=0
    ) as sdk:
        yield sdk


def ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text_of(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def logprobs_of(answer: dict[str, Any]) -> list[float]:
    logprobs = answer["choices"][0]["logprobs"]
    if "content" in logprobs:
        return [token["logprob"] for token in logprobs["content"]]
    return list(logprobs["token_logprobs"])


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def streamed_text(chunks: list[dict[str, Any]]) -> str:
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(p["delta"].get("content") or "" if "delta" in p else p["text"] for p in parts)


def test_ordinary_requests_are_vllms_own(server: LiveServer) -> None:
    answer = ok(server.chat("base"))
    assert answer["model"] == "zoo"  # as vLLM answers: in the first served name
    assert "composition" not in answer
    assert ok(server.complete("zoo"))["choices"] == ok(server.complete("base"))["choices"]


def test_an_adapter_answers_under_its_name(server: LiveServer) -> None:
    answer = ok(server.chat("polite"))
    assert answer["model"] == "polite"
    assert "composition" not in answer
    composed = ok(server.chat("base", composition="polite"))
    assert text_of(composed) == text_of(answer)
    assert composed["composition"]["rows"] == 1


@pytest.mark.parametrize("route", ["chat", "complete"])
def test_a_formula_as_model(server: LiveServer, route: str) -> None:
    answer = ok(getattr(server, route)(FORMULA))
    assert answer["model"] == FORMULA
    assert answer["composition"] == {"plan": PLAN, "rows": 3}
    assert answer["usage"]["completion_tokens"] >= 1


def test_formula_field_members_and_recipe_agree(server: LiveServer) -> None:
    members = [{"model": m["model"], "weight": m["weight"]} for m in PLAN["members"]]  # type: ignore[index]
    recipe = {"recipe": "proxy_tuning", "expert": "polite", "anti_expert": "rude", "alpha": 0.5}
    answers = [
        ok(server.chat(FORMULA)),
        ok(server.chat("base", composition=FORMULA)),
        ok(server.chat("base", composition={"formula": FORMULA})),
        ok(server.chat("base", composition={"members": members})),
        ok(server.chat("base", composition=recipe)),
    ]
    assert len({text_of(answer) for answer in answers}) == 1
    assert all(answer["composition"]["plan"] == PLAN for answer in answers)


@pytest.mark.parametrize("route", ["chat", "complete"])
def test_a_stream_says_the_same(server: LiveServer, route: str) -> None:
    whole = ok(getattr(server, route)(FORMULA))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = chunks_of(getattr(server, route)(FORMULA, **options))
    assert streamed_text(chunks) == text_of(whole)
    assert {chunk["model"] for chunk in chunks} == {FORMULA}
    assert chunks[0]["composition"] == chunks[-1]["composition"] == {"plan": PLAN, "rows": 3}
    assert not any("composition" in chunk for chunk in chunks[1:-1])
    assert chunks[-1]["usage"] == {
        k: v for k, v in whole["usage"].items() if not k.endswith("details")
    }


def test_an_adapter_streams_under_its_name(server: LiveServer) -> None:
    chunks = chunks_of(server.complete("rude", stream=True))
    assert {chunk["model"] for chunk in chunks} == {"rude"}


def test_the_openai_sdk(server: LiveServer, sdk: openai.OpenAI) -> None:
    body = {"composition": {"recipe": "proxy_tuning", "expert": "polite"}}
    create: Any = sdk.chat.completions.create
    fields = {
        "model": "base",
        "messages": [{"role": "user", "content": "Who are you?"}],
        "temperature": 0,
        "max_tokens": 12,
        "extra_body": body,
    }
    whole = create(**fields)
    assert whole.model_extra["composition"]["plan"]["formula"] == "polite"
    streamed = "".join(c.choices[0].delta.content or "" for c in create(**fields, stream=True))
    assert streamed == whole.choices[0].message.content
    assert {model.id for model in sdk.models.list()} >= {"base", "polite", "rude"}
    with pytest.raises(openai.NotFoundError) as caught:
        create(**fields | {"model": "nobody", "extra_body": {}})
    assert caught.value.code == "model_not_found"


def test_several_choices(server: LiveServer) -> None:
    answer = ok(server.complete(FORMULA, n=3, temperature=1.0, seed=7))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    again = ok(server.complete(FORMULA, n=3, temperature=1.0, seed=7))
    assert [c["text"] for c in again["choices"]] == [c["text"] for c in answer["choices"]]


def test_several_prompts(server: LiveServer) -> None:
    prompts = ["Once upon a", "The"]
    answer = ok(server.complete(FORMULA, prompts))
    alone = [text_of(ok(server.complete(FORMULA, prompt))) for prompt in prompts]
    assert [choice["text"] for choice in answer["choices"]] == alone


def test_logprobs_are_those_of_the_composition(server: LiveServer) -> None:
    def logprobs(model: str) -> list[float]:
        answer = ok(server.complete(model, logprobs=3))
        found: list[float] = answer["choices"][0]["logprobs"]["token_logprobs"]
        return found

    single, doubled = logprobs("base"), logprobs("2*base")
    # Twice the logits: the same greedy tokens, each at least as likely.
    assert all(two >= one for one, two in zip(single, doubled, strict=True))
    assert single != doubled
    chat = ok(server.chat(FORMULA, logprobs=True, top_logprobs=2))
    content = chat["choices"][0]["logprobs"]["content"]
    assert len(content) == chat["usage"]["completion_tokens"]


def test_stop_strings(server: LiveServer) -> None:
    whole = text_of(ok(server.complete(FORMULA)))
    stop = whole[4:6]
    stopped = ok(server.complete(FORMULA, stop=[stop]))
    assert text_of(stopped) == whole[: whole.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_structured_output(server: LiveServer) -> None:
    schema = {
        "type": "object",
        "properties": {"fine": {"type": "boolean"}},
        "required": ["fine"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = ok(server.chat(FORMULA, response_format=form, max_tokens=40))
    assert set(json.loads(text_of(answer))) == {"fine"}
    choice = ok(server.chat(FORMULA, structured_outputs={"choice": ["yes", "no"]}))
    assert text_of(choice) in ("yes", "no")


@pytest.mark.parametrize(
    ("members", "prompts"),
    [
        ({"prompt": "Hello."}, [{"text": "Hello."}]),
        (
            {"messages": [{"role": "user", "content": "Hello."}]},
            [{"messages": [{"role": "user", "content": "Hello."}]}],
        ),
        ({"prompt_token_ids": [7, 8, 9]}, [{"token_ids": 3}]),
    ],
)
@pytest.mark.parametrize("route", ["chat", "complete"])
def test_members_with_prompts_of_their_own(
    server: LiveServer, route: str, members: dict[str, Any], prompts: list[Any]
) -> None:
    composition = {
        "members": [{"model": "polite", "weight": 1.5}, {"model": "base", "weight": -0.5} | members]
    }
    answer = ok(getattr(server, route)("base", composition=composition))
    told = answer["composition"]["plan"]["members"]
    assert [m["prompt"] for m in told] == ["request", *prompts]


def test_a_member_that_reads_the_same_text_is_the_same_member(server: LiveServer) -> None:
    """`2*base - base[the same prompt]` is `base`: the template and the tokens agree."""
    text = "Who are you?"
    same = {"messages": [{"role": "user", "content": text}]}
    composition = {
        "members": [{"model": "polite", "weight": 2}, {"model": "polite", "weight": -1} | same]
    }
    expected = text_of(ok(server.chat("polite", text)))
    assert text_of(ok(server.chat("base", text, composition=composition))) == expected
    composition["members"][1] = {"model": "polite", "weight": -1, "prompt": "Once upon a"}
    expected = text_of(ok(server.complete("polite")))
    assert text_of(ok(server.complete("base", composition=composition))) == expected


def test_guidance_without_a_negative_prompt_reads_the_last_token(server: LiveServer) -> None:
    guided = {"recipe": "classifier_free_guidance", "model": "polite", "guidance_scale": 1.5}
    last = server.tokens("Once upon a")[-1]
    spelled = {
        "members": [
            {"model": "polite", "weight": 1.5},
            {"model": "polite", "weight": -0.5, "prompt_token_ids": [last]},
        ]
    }
    answers = [ok(server.complete("base", composition=c)) for c in (guided, spelled)]
    assert text_of(answers[0]) == text_of(answers[1])
    assert answers[0]["composition"]["plan"]["members"][1]["prompt"] == "last token"


def test_a_repetition_penalty_acts_on_guided_log_probabilities(server: LiveServer) -> None:
    guided = {"recipe": "classifier_free_guidance", "model": "polite", "guidance_scale": 1.5}
    last = server.tokens("Once upon a")[-1]
    members = [
        {"model": "polite", "weight": 1.5},
        {"model": "polite", "weight": -0.5, "prompt_token_ids": [last]},
    ]
    ask = partial(server.complete, "base", repetition_penalty=3)
    products, logits = [
        text_of(ok(ask(composition={"members": members, "log_softmax": flag})))
        for flag in (True, False)
    ]
    assert text_of(ok(ask(composition=guided))) == products
    assert logits != products


def test_the_answer_says_what_cancelled(server: LiveServer) -> None:
    recipe = {"recipe": "proxy_tuning", "expert": "polite"}
    plan = ok(server.complete("base", composition=recipe))["composition"]["plan"]
    assert (plan["formula"], plan["cancelled"]) == ("polite", ["base"])


@pytest.mark.parametrize("request_text", ["{} What is the sky?", "{}\n\nWhat is the sky?"])
@pytest.mark.parametrize("route", ["chat", "complete"])
def test_context_aware_decoding_removes_the_context(
    server: LiveServer, route: str, request_text: str
) -> None:
    """Without the context the question stands as in the authors' input, with no blank before it."""
    context = "The sky is green."
    text, question = request_text.format(context), "What is the sky?"
    recipe = {"recipe": "context_aware", "context": context, "alpha": 0.5}
    ask = partial(getattr(server, route), "base", text, logprobs=route == "chat" or 1)
    guided = ok(ask(composition=recipe))
    without: dict[str, Any] = {"prompt": question}
    if route == "chat":
        without = {"messages": [{"role": "user", "content": question}]}
    spelled = {
        "members": [{"model": "base", "weight": 1.5}, {"model": "base", "weight": -0.5} | without]
    }
    expected = ok(ask(composition=spelled))
    assert logprobs_of(guided) == pytest.approx(logprobs_of(expected), abs=1e-4)


def test_filters(server: LiveServer) -> None:
    composition = {
        "formula": FORMULA,
        "filters": [{"kind": "top_p", "model": "base", "value": 0.5}],
    }
    answer = ok(server.chat("base", composition=composition))
    assert answer["composition"]["plan"]["filters"] == [
        {"kind": "top_p", "model": "base", "value": 0.5}
    ]


def test_other_arguments_of_the_engine_stay(server: LiveServer) -> None:
    ok(server.complete(FORMULA, vllm_xargs={"session_id": "a"}))


def test_other_routes_know_adapters_by_name(server: LiveServer) -> None:
    body = {"model": "polite", "prompt": "Hello."}
    assert ok(server.http.post("/tokenize", json=body))["count"] >= 1
    assert server.http.post("/v1/load_lora_adapter", json={}).status_code == 404
