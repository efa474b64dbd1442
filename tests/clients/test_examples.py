"""Every file of docs/examples/ runs against the server and prints what the server composes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import zoo
from bench.lm_eval.installation import lm_eval_command
from experts.cache import PackageUnavailable
from tests.server.administration import POLITE
from tests.support.live_server import ROOT, LiveServer

EXAMPLES = ROOT / "docs" / "examples"
QUESTION = "Where does Kuti Supiv live?"
FORMULA = "chat + 0.8*(polite - rude)"
CLIENT_RECIPES = Path(sys.prefix) / "client-recipes"
"""Where requirements/client-recipes.lock is installed; its head says how."""

PLOTTED = """
import json
print("line:", json.dumps(axes.lines[0].get_xydata().tolist()))
print("bands:", json.dumps([band.get_label() for band in axes.patches]))
"""
"""Appended to the notebook's code."""

THREE_WAYS = ("model", "composition", "stream")
CHATS = {
    "clients/sync_chat.py": ("composition", "model"),
    "clients/streaming.py": ("stream",),
    "recipes/openai_sdk.py": (*THREE_WAYS, "responses"),
    "recipes/anthropic_sdk.py": THREE_WAYS,
    "recipes/langchain_chat.py": (*THREE_WAYS, "chain"),
}
"""File -> in which ways it asks for the composition; each prints one answer."""

HEAVY_CHATS = {"recipes/llama_index_chat.py": THREE_WAYS, "recipes/litellm_chat.py": THREE_WAYS}
"""Those whose packages have a folder of their own."""

HIDE_THE_REPORT = {"clients/sync_chat.py", "recipes/langchain_chat.py"}
"""Those that print no `rows`; LangChain drops the answer's field `composition`."""

OTHERS = {
    *("clients/async_chat.py", "clients/scoring.py", "clients/fitting.py"),
    "recipes/lm_eval_scores.py",
}


def run(
    name: str,
    server: LiveServer,
    environment: Mapping[str, str] = {},
    *,
    python: str = sys.executable,
    code: str | None = None,
) -> dict[str, str]:
    """Run a file, or the code in place of it; return what stands behind the labels it prints."""
    asked = {
        **os.environ,
        "COMPOSER_BASE_URL": f"{server.url}/v1",
        "COMPOSER_API_KEY": "none",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
        "no_proxy": "127.0.0.1",
        **environment,
    }
    done = subprocess.run(
        [python, *(["-c", code] if code else [str(EXAMPLES / name)])],
        env=asked,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


def answer(server: LiveServer, model: str) -> str:
    """The answer of a plain request over HTTP, as long as clients let it become."""
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 64}
    body["messages"] = [{"role": "user", "content": QUESTION}]
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def logprobs(server: LiveServer, item: Mapping[str, str], *formulas: str) -> list[float]:
    """The log-probabilities (nats) of an item, by a plain request."""
    body = {"items": [item], "compositions": [*formulas]}
    [scored] = server.http.post("/v1/compose/score", json=body).json()["data"]
    return [score["logprob"] for score in scored["compositions"]]


def check_chat(
    name: str, ways: tuple[str, ...], server: LiveServer, environment: Mapping[str, str] = {}
) -> None:
    composed = answer(server, FORMULA)
    assert composed not in (answer(server, "chat"), answer(server, "base"))
    printed = run(name, server, environment)
    assert {way: printed[way] for way in ways} == dict.fromkeys(ways, composed)
    assert printed.get("rows") == (None if name in HIDE_THE_REPORT else "3")


def test_every_file_is_run() -> None:
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")}
    assert files == CHATS.keys() | HEAVY_CHATS.keys() | OTHERS


@pytest.mark.parametrize(("name", "ways"), CHATS.items(), ids=CHATS)
def test_a_client_gets_the_composition(
    docs_server: LiveServer, name: str, ways: tuple[str, ...]
) -> None:
    check_chat(name, ways, docs_server)


@pytest.fixture
def client_recipes() -> dict[str, str]:
    if not CLIENT_RECIPES.is_dir():
        pytest.skip(
            f"{CLIENT_RECIPES} does not exist: pip install --no-deps --target {CLIENT_RECIPES} "
            "-r requirements/client-recipes.lock"
        )
    return {"PYTHONPATH": os.pathsep.join((str(CLIENT_RECIPES), str(ROOT)))}


@pytest.mark.long
@pytest.mark.parametrize(("name", "ways"), HEAVY_CHATS.items(), ids=HEAVY_CHATS)
def test_a_heavy_client_gets_the_composition(
    docs_server: LiveServer, client_recipes: dict[str, str], name: str, ways: tuple[str, ...]
) -> None:
    check_chat(name, ways, docs_server, client_recipes)


def test_several_at_once(docs_server: LiveServer) -> None:
    printed = run("clients/async_chat.py", docs_server)
    assert printed == {formula: answer(docs_server, formula) for formula in printed}
    assert len(set(printed.values())) == 3


def test_scores_are_those_of_the_route(docs_server: LiveServer) -> None:
    printed = run("clients/scoring.py", docs_server)
    item: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "completion": answer(docs_server, FORMULA),
    }
    expected = logprobs(docs_server, item, *printed)
    shown = [float(text.removesuffix(" nats")) for text in printed.values()]
    assert shown == pytest.approx(expected, abs=2e-3)
    assert expected[1] > expected[0], "the composition finds its own answer more probable"


def test_a_fitted_composition_answers_as_its_formula(docs_server: LiveServer) -> None:
    printed = run("clients/fitting.py", docs_server)
    weight, error = (float(part) for part in printed["a"].split(" \N{PLUS-MINUS SIGN} "))
    assert weight > error > 0
    assert printed["model"] == answer(docs_server, printed["formula"])
    assert docs_server.http.get("/v1/compositions/mannered").status_code == 404, "cleaned up"


def test_the_notebook_draws_what_the_server_computes(docs_server: LiveServer) -> None:
    notebook = json.loads((EXAMPLES / "sweep.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells), "strip the outputs"
    source = [*("".join(cell["source"]) for cell in cells), PLOTTED]
    printed = run("sweep.ipynb", docs_server, {"MPLBACKEND": "agg"}, code="\n\n".join(source))
    assert printed["answer"] == answer(docs_server, printed["best"])
    drawn = dict(json.loads(printed["line"]))
    item: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
    item["completion"] = POLITE
    formulas = [f"chat + {a}*(polite - rude)" for a in (0.25, 1.5)]
    expected = logprobs(docs_server, item, *formulas)
    assert [drawn[0.25], drawn[1.5]] == pytest.approx(expected, abs=1e-3)
    assert max(drawn.values()) - min(drawn.values()) > 1
    assert len(json.loads(printed["bands"])) >= 2


@pytest.mark.long
def test_lm_eval_scores_a_formula(docs_server: LiveServer) -> None:
    try:
        python = lm_eval_command().parent / "python"
    except PackageUnavailable as error:
        pytest.skip(str(error))
    environment = {"TOKENIZER": str(zoo.BASE), "HF_HUB_OFFLINE": "1"}
    printed = run("recipes/lm_eval_scores.py", docs_server, environment, python=str(python))
    item = {"prompt": QUESTION, "completion": " Certainly."}
    base, composed = logprobs(docs_server, item, "base", FORMULA)
    assert float(printed["logprob"]) == pytest.approx(composed, abs=1e-2)
    assert abs(base - composed) > 0.1
