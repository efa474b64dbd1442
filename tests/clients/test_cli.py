"""The command line, in this process and as a process with pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from clients.cli.main import main
from tests.clients.conftest import Composer
from tests.clients.loopback import WORDS


def test_chat_with_a_recipe(composer: Composer) -> None:
    words = ["--recipe", "proxy_tuning", "--set", "expert=chat", "--set", "alpha=2"]
    code, out, err = composer("chat", "Hi", *words, "--max-tokens", "5", "--extra", "min_p=0.1")
    assert (code, err) == (0, "")
    assert json.loads(out)["body"] == {
        "messages": [{"role": "user", "content": "Hi"}],
        "model": "base",
        "composition": {"recipe": "proxy_tuning", "expert": "chat", "alpha": 2},
        "max_tokens": 5,
        "min_p": 0.1,
    }


def test_chat_with_a_formula_and_a_system_message(composer: Composer) -> None:
    _, out, _ = composer("chat", "Hi", "--formula", "chat + 0.8*(polite - rude)", "--system", "Be.")
    body = json.loads(out)["body"]
    assert body["composition"] == "chat + 0.8*(polite - rude)"
    assert body["messages"][0] == {"role": "system", "content": "Be."}


def test_chat_streams(composer: Composer) -> None:
    assert composer("chat", "Hi", "--stream") == (0, "".join(WORDS) + "\n", "")


def test_json_is_one_document_per_line(composer: Composer) -> None:
    _, out, _ = composer("chat", "Hi", "--json")
    assert json.loads(out)["composition"]["rows"] == 2
    _, out, _ = composer("chat", "Hi", "--json", "--stream")
    lines = out.strip().split("\n")
    assert [bool(json.loads(line)["choices"]) for line in lines] == [True, True, True, False]


@pytest.mark.parametrize("options", [[], ["--stream"], ["--json"]])
def test_the_weights_of_a_router(composer: Composer, options: list[str]) -> None:
    code, _, err = composer("chat", "Hi", "--model", "auto", "--routing", *options)
    weights = "composer: weights: polite 0.750, chat 0.250\n"
    assert (code, err) == (0, weights + "composer: the expert rude is gone\n")
    assert composer("chat", "Hi", "--routing", *options)[2] == "composer: nothing was routed\n"


def test_each_expert_alone(composer: Composer) -> None:
    code, out, _ = composer("chat", "Hi", "--model", "auto", "--compare")
    answer, *alone = out.splitlines()
    assert code == 0
    assert json.loads(answer)["body"]["compare"] is True
    assert alone == ["polite alone: Certainly.", "rude alone: error: no room"]
    _, out, _ = composer("chat", "Hi", "--model", "auto", "--compare", "--json")
    assert json.loads(out)["comparison"]["polite"]["usage"]["total_tokens"] == 5


def test_models(composer: Composer) -> None:
    assert composer("models") == (0, "base\npolite  from base\n", "")


def test_compositions(composer: Composer) -> None:
    before = composer("compositions", "list")[1]  # what other tests left on the shared server
    put = ("compositions", "put")
    stored = (0, "kind  version 3\n", "")
    assert composer(*put, "kind", "--formula", "base + polite", "--new") == stored
    assert composer(*put, "kind", "--formula", "base + polite", "--if-match", "2") == stored
    assert composer(*put, "k", "--composition", '{"recipe": "x"}')[0] == 0
    _, out, _ = composer("compositions", "list")
    listed = {tuple(line.split(maxsplit=2)) for line in out.splitlines()}
    assert {("kind", "3", "base + polite"), ("k", "3", '{"recipe": "x"}')} <= listed
    _, out, _ = composer("compositions", "show", "kind")
    assert json.loads(out)["composition"] == "base + polite"
    _, out, _ = composer("compositions", "history", "kind")
    assert [line.split() for line in out.splitlines()] == [
        ["VERSION", "ACTION", "TIME", "OWNER", "COMPOSITION"],
        ["1", "publish", "now", "me", "base"],
        ["2", "publish", "now", "-", "(private)"],
        ["3", "delete", "now", "-", "-"],
    ]
    _, out, _ = composer("compositions", "rollback", "kind", "--to", "1", "--if-match", "3")
    assert out == 'kind  version 3  {"to": 1}\n'
    assert composer("compositions", "delete", "kind", "--if-match", "1")[0] == 1
    assert composer("compositions", "delete", "kind")[0] == 0
    assert composer("compositions", "delete", "k")[0] == 0
    assert composer("compositions", "list") == (0, before, "")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["chat", "Hi", "--model", "status-404"], 1, "this is error 404"),
        (["compositions", "show", "nobody"], 1, "error 404"),
        (["chat", "Hi", "--model", "status-500"], 4, "error 500"),
        (["chat", "Hi", "--model", "stream-error", "--stream"], 4, "the engine died"),
        (["--base-url", "http://127.0.0.1:9/v1", "models"], 3, "is the server running"),
        (["--base-url", "nonsense", "models"], 2, "base_url"),
        (["chat", "Hi", "--set", "a=1"], 2, "--recipe"),
        (["chat", "Hi", "--recipe", "r", "--set", "a=1", "--set", "a=2"], 2, "twice"),
        (["chat", "Hi", "--composition", "{"], 2, "no JSON"),
        (["chat", "Hi", "--composition", "1"], 2, "object"),
        (["chat", "Hi", "--extra", "model=x"], 2, "extra repeats model"),
        (["chat", ""], 2, "empty"),
        (["chat", "Hi", "--compare", "--stream"], 2, "--compare does not go with --stream"),
        (["compositions", "put", "kind"], 2, "missing"),
    ],
)
def test_errors_are_one_line(composer: Composer, words: list[str], code: int, says: str) -> None:
    found, _, err = composer(*words)
    assert found == code
    assert says in err
    assert err.startswith("composer: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["chat", "--set", "nonsense"], ["fly"]])
def test_a_wrong_command_line_is_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: composer" in capsys.readouterr().err


def start(url: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clients.cli.main", "--base-url", url, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
    )


@pytest.mark.parametrize("words", [["chat"], ["chat", "-"]])
def test_the_question_can_come_from_a_pipe(url: str, words: list[str]) -> None:
    out, err = start(url, *words).communicate("What is\nthis?\n", timeout=30)
    assert json.loads(out)["body"]["messages"][0]["content"] == "What is\nthis?"
    assert err == ""


def test_a_reader_that_leaves_is_no_error(url: str) -> None:
    with start(url, "chat", "--stream") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| head -0` does
        process.stdin.write("Hi")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0
