"""Compositions with a model of another size, over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

import zoo
from composer.reference.oracle import Oracle, OracleRow
from server.settings import Settings
from server.startup.auxiliary_models import differing_tokens, find_auxiliaries
from tests.support.live_server import LiveServer, refused, serving

KEY = "a key for administrators"
PROMPT = list(range(30, 60))
UPSCALED = "base + 1.0*(small:chat - small)"


@pytest.fixture(scope="module")
def own_template(zoo_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a chat template of its own."""
    folder = tmp_path_factory.mktemp("template") / "small"
    shutil.copytree(zoo_small, folder)
    template = (folder / "chat_template.jinja").read_text()
    changed = template.replace("add_generation_prompt", "add_generation_prompt and true")
    assert changed != template
    (folder / "chat_template.jinja").write_text("{{ 'Well. ' }}" + changed)
    return folder


@pytest.fixture(scope="module")
def family(
    zoo_base: Path, zoo_small: Path, own_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A base and two smaller models, one of which has a chat template of its own."""
    folder = tmp_path_factory.mktemp("auxiliary")
    small = zoo.SMALL_ADAPTERS
    arguments = [
        *("--model", str(zoo_base), "--adapters", f"chat={zoo.ADAPTERS['chat']}"),
        *("--auxiliary", f"small={zoo_small},chat={small['chat']},rude={small['rude']}"),
        *("--auxiliary", f"chat-small={own_template}"),
        *("--auxiliary-memory", "32", "--max-model-len", "512", "--max-num-seqs", "16"),
        *("--adapter-root", str(zoo.PROJECT / "zoo" / "adapters")),
    ]
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
        "COMPOSER_ADMIN_KEY": KEY,
    }
    with serving(arguments, folder / "log.txt", environment) as live:
        yield live


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, zoo_small: Path) -> Oracle:
    small = {f"small:{name}": zoo.SMALL_ADAPTERS[name] for name in ("chat", "rude")}
    return Oracle(zoo_base, {"chat": zoo.ADAPTERS["chat"]}, {"small": (zoo_small, small)})


def tokens_of(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    tokens: list[int] = answer.json()["choices"][0]["token_ids"]
    return tokens


def members(*terms: tuple[float, str | None, str | None]) -> list[OracleRow]:
    prompt = tuple(PROMPT)
    return [OracleRow(weight, adapter, prompt, model) for weight, model, adapter in terms]


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        ("small", members((1, "small", None))),
        ("small:chat", members((1, "small", "small:chat"))),
        (UPSCALED, members((1, None, None), (1, "small", "small:chat"), (-1, "small", None))),
        ("2*chat - small:rude", members((2, None, "chat"), (-1, "small", "small:rude"))),
        ("small:chat - 0.5*small", members((1, "small", "small:chat"), (-0.5, "small", None))),
    ],
)
def test_answers_are_those_of_the_oracle(
    model: str, rows: list[OracleRow], family: LiveServer, oracle: Oracle
) -> None:
    answer = family.complete(model, PROMPT, return_token_ids=True)
    assert not [m for m in oracle.mismatches(rows, (), tokens_of(answer)) if m.gap >= 1e-3]
    assert answer.json()["model"] == model
    used = {name for name in ("chat", "small:chat", "small:rude") if name in model.split()}
    assert used <= answer.json().get("adapters", {}).keys()


@pytest.mark.parametrize(
    "recipe",
    [
        {"recipe": "proxy_tuning", "expert": "small:chat", "anti_expert": "small"},
        {"recipe": "proxy_tuning", "expert": "small:chat"},
        {"recipe": "emulated_fine_tuning", "tuned": "small:chat"},
    ],
)
def test_recipes_take_auxiliary_models(family: LiveServer, recipe: dict[str, Any]) -> None:
    """The partner of an adapter is the model that it is an adapter of, unless another is named."""
    answer = family.complete("base", PROMPT, composition=recipe)
    assert answer.json()["choices"] == family.complete(UPSCALED, PROMPT).json()["choices"]
    assert answer.json()["composition"]["rows"] == 3


def test_a_conversation_is_rendered_by_each_models_template(
    family: LiveServer, own_template: Path
) -> None:
    """`chat-small` reads `Well. ` before everything."""
    tokenizer = AutoTokenizer.from_pretrained(own_template)
    messages = [{"role": "user", "content": "Who are you?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text.startswith("Well. ")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    chat = family.chat("chat-small", return_token_ids=True)
    assert tokens_of(chat) == tokens_of(family.complete("chat-small", ids, return_token_ids=True))
    said = chat.json()["choices"][0]["message"]["content"]
    options: dict[str, Any] = {"model": "chat-small", "temperature": 0}
    responses = {"input": messages, "max_output_tokens": 12} | options
    answer = family.http.post("/v1/responses", json=responses).json()
    assert answer["output"][0]["content"][0]["text"] == said
    anthropic = {"messages": messages, "max_tokens": 12} | options
    assert family.http.post("/v1/messages", json=anthropic).json()["content"][0]["text"] == said

    def surprise(model: str) -> float:
        answer = family.chat(model, logprobs=True, top_logprobs=1).json()
        first: float = answer["choices"][0]["logprobs"]["content"][0]["logprob"]
        return first

    assert surprise("small") != pytest.approx(surprise("chat-small"), abs=1e-3)


def test_a_name_that_reads_as_a_difference_is_that_of_its_model(family: LiveServer) -> None:
    """Of `chat-small`, and not of `chat` minus `small`."""
    member = {"model": "chat-small", "weight": 1.0, "prompt": "request"}
    answer = family.complete("chat-small", PROMPT)
    assert answer.json()["composition"]["plan"]["members"] == [member]
    items = [{"prompt": PROMPT, "completion": [31, 32]}]
    body = {"compositions": ["chat-small", "chat"], "items": items}
    scored = family.http.post("/v1/compose/score", json=body)
    assert [plan["members"] for plan in scored.json()["plans"]] == [
        [member],
        [member | {"model": "chat"}],
    ]
    card = family.http.get("/v1/models/chat-small").json()
    assert card["id"] == "chat-small"


def test_a_mixture_across_models(family: LiveServer) -> None:
    """A row of the base leads where no expert is there; it has no weight to tell."""
    mixture = {"recipe": "mixture", "experts": ["small:chat", "small"], "router": "posterior"}
    answer = family.chat("base", composition=mixture | {"explain": True}).json()
    routing = answer["composition"]["routing"]
    for weights in (routing["weights"], *routing["tokens"]):
        assert set(weights) == {"small:chat", "small"}
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    assert answer["composition"]["rows"] == 2
    one = {"recipe": "mixture", "experts": ["small:chat"], "router": "posterior"}
    alone = family.chat("base", composition=one).json()
    assert alone["choices"] == family.chat("small:chat").json()["choices"]
    assert alone["composition"]["routing"]["weights"] == {"small:chat": 1.0}
    compared = family.chat("chat + 0.5*(small:chat - small)", compare=True).json()["comparison"]
    assert list(compared) == ["chat", "small", "small:chat"]
    for name, own in compared.items():
        assert own["choices"] == family.chat(name).json()["choices"]


def test_experts_that_cannot_be_routed_together(family: LiveServer) -> None:
    """`chat-small` reads conversations in a template of its own."""
    posterior = {"kind": "posterior", "prompt": True}
    mixture = {"recipe": "mixture", "experts": ["chat", "chat-small"], "router": posterior}
    refused = family.chat("base", composition=mixture)
    assert refused.status_code == 400
    for words in ("'chat-small'", "chat template", '"prompt"'):
        assert words in refused.json()["error"]["message"]
    assert family.complete("base", PROMPT, composition=mixture).status_code == 200
    assert family.chat("base", composition=mixture | {"router": "posterior"}).status_code == 200
    switch = {"kind": "sequence", "at": "."}
    mixed = family.chat("base", composition=mixture | {"router": switch})
    assert mixed.status_code == 400
    assert "auxiliary model" in mixed.json()["error"]["message"]


def test_the_list_of_models(family: LiveServer) -> None:
    data = family.http.get("/v1/models").json()["data"]
    parents = {entry["id"]: entry["parent"] for entry in data}
    assert parents["small"] is None
    assert parents["small:chat"] == "small"
    assert parents["chat"] == "base"


def test_adapters_of_auxiliary_models_come_and_go(family: LiveServer) -> None:
    admin = httpx.Client(
        base_url=family.url,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=120,
        trust_env=False,
    )

    def put(alias: str, source: str) -> Any:
        return admin.put(f"/v1/adapters/{alias}", json={"source": source})

    with admin:
        assert put("small:manner", "small-polite").status_code == 201
        polite = family.complete("small:manner", PROMPT).json()
        assert put("small:manner", "small-rude").status_code == 200
        rude = family.complete("small:manner", PROMPT).json()
        assert rude["choices"] == family.complete("small:rude", PROMPT).json()["choices"]
        assert polite["adapters"] != rude["adapters"]
        # An adapter belongs to one model.
        wrong = put("small:wrong", "polite")
        assert wrong.status_code == 400
        assert "modules that the base model does not h" in wrong.text
        assert put("wrong", "small-polite").status_code == 400
        nobody = put("large:chat", "polite")
        assert nobody.status_code == 400
        assert "no auxiliary model 'large'" in nobody.text
        assert put("small", "polite").status_code == 409
        admin.delete("/v1/adapters/small:manner")
        assert family.complete("small:manner", PROMPT).status_code == 404


def test_what_cannot_be_asked(family: LiveServer) -> None:
    unknown = family.complete("base + tiny:chat", PROMPT)
    assert unknown.status_code == 404
    assert "tiny:chat" in unknown.json()["error"]["message"]
    other = family.complete("base + small:polite", PROMPT)
    assert other.status_code == 404
    assert "small:chat" in other.json()["error"]["message"]


# ---- starts that fail


@pytest.mark.engine
def test_another_tokenizer_is_refused(zoo_base: Path, zoo_small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "swapped"
    shutil.copytree(zoo_small, folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[400], list(vocabulary)[401]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content))
    said = refused("--model", str(zoo_base), "--auxiliary", f"small={folder}")
    assert "another vocabulary" in said
    assert repr(one) in said
    assert "2 ids differ" in said


def test_a_longer_vocabulary_goes(zoo_base: Path, zoo_small: Path) -> None:
    base = {"a": 0, "b": 1}
    assert differing_tokens(base, base | {"c": 2}) == []
    assert differing_tokens(base | {"c": 2}, base) == []
    assert differing_tokens(base, {"b": 0, "a": 1}) == [(0, "a", "b"), (1, "b", "a")]
    given = Settings.from_arguments(["--model", "m", "--auxiliary", f"small={zoo_small}"])
    [found] = find_auxiliaries(given.auxiliaries, zoo_base, ())
    assert found.chat_template is None  # the same as the base's
    assert found.shapes is not None


@pytest.mark.engine
def test_an_adapter_of_the_wrong_model(zoo_base: Path, zoo_small: Path) -> None:
    wrong = f"small={zoo_small},chat={zoo.ADAPTERS['chat']}"
    said = refused("--model", str(zoo_base), "--auxiliary", wrong)
    assert "small:chat" in said
    assert "Serve it with the model that it was trained on" in said


@pytest.mark.engine
def test_a_model_that_is_not_there(zoo_base: Path, tmp_path: Path) -> None:
    said = refused("--model", str(zoo_base), "--auxiliary", f"small={tmp_path}/nowhere")
    assert "nowhere" in said
