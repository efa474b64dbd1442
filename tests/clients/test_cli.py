"""The command line, in this process and as a process with pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from clients.cli.tables import print_table
from tests.clients.conftest import Composer
from tests.clients.loopback import WORDS

ROOT = Path(__file__).resolve().parents[2]


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
    assert composer("models", "--no-json") == (0, "base\npolite  from base\n", "")
    code, out, _ = composer("models")  # into a pipe
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["base", "polite"]


def test_compositions(composer: Composer) -> None:
    before = composer("compositions", "list", "--no-json")[
        1
    ]  # what other tests left on the shared server
    put = ("compositions", "put")
    stored = (0, "kind  version 3\n", "")
    assert composer(*put, "kind", "--formula", "base + polite", "--new") == stored
    assert composer(*put, "kind", "--formula", "base + polite", "--if-match", "2") == stored
    assert composer(*put, "k", "--composition", '{"recipe": "x"}')[0] == 0
    _, out, _ = composer("compositions", "list")
    names = {line["name"]: line["composition"] for line in map(json.loads, out.splitlines())}
    assert names["k"] == {"recipe": "x"}
    _, out, _ = composer("compositions", "list", "--no-json")
    listed = {tuple(line.split(maxsplit=2)) for line in out.splitlines()}
    assert {("kind", "3", "base + polite"), ("k", "3", '{"recipe": "x"}')} <= listed
    _, out, _ = composer("compositions", "show", "kind")
    assert json.loads(out)["composition"] == "base + polite"
    _, out, _ = composer("compositions", "history", "kind")
    assert [json.loads(line)["version"] for line in out.splitlines()] == [1, 2, 3]
    _, out, _ = composer("compositions", "history", "kind", "--no-json")
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
    assert composer("compositions", "list", "--no-json") == (0, before, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["chat", "Hi", "--model", "status-404"], 1, "this is error 404"),
        (["compositions", "show", "nobody"], 1, "error 404"),
        (["chat", "Hi", "--model", "status-500"], 4, "error 500"),
        (["chat", "Hi", "--model", "stream-error", "--stream"], 4, "the engine died"),
        (["--base-url", "http://127.0.0.1:9/v1", "models"], 3, "is the server running"),
        (["--base-url", "nonsense", "models"], 2, "base_url"),
        (["chat", "Hi", "--set", "a=1"], 2, "--recipe"),
        (["chat", "Hi", "--recipe", "r", "--set", "a=1", "--set", "a=2"], 2, "twice"),
        (["chat", "Hi", "--composition", "{"], 2, "not JSON"),
        (["chat", "Hi", "--composition", "1"], 2, "object"),
        (["chat", "Hi", "--extra", "model=x"], 2, "extra repeats model"),
        (["chat", ""], 2, "empty"),
        (["chat", "Hi", "--compare", "--stream"], 2, "--compare: not allowed with --stream"),
        (["chat", "Hi", "--formula", "a", "--recipe", "b"], 2, "--recipe: not allowed with"),
        (["chat", "--set", "nonsense", "--recipe", "r", "Hi"], 2, "'nonsense' is not NAME=VALUE"),
        (["chat", "Hi", "--seed", "x"], 2, "'--seed'"),
        (["fly"], 2, "No such command 'fly'; see 'composer --help'"),
        ([], 2, "Missing command"),
        (["recipes", "nobody"], 2, "'nobody' is not one of proxy_tuning"),
        (["compositions", "put", "kind"], 2, "missing"),
    ],
)
def test_errors_are_one_line(composer: Composer, words: list[str], code: int, message: str) -> None:
    exit_code, _, err = composer(*words)
    assert exit_code == code
    assert message in err
    assert err.startswith("composer: ")
    assert err.count("\n") == 1


def test_an_error_keeps_its_lines(composer: Composer) -> None:
    """The caret of a formula's error stands below its position."""
    said = "composer: this is\n  error 400\n"
    assert composer("chat", "Hi", "--model", "status-400") == (1, "", said)


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


@pytest.mark.parametrize(
    "words",
    [
        ["--base-url", "{url}", "compositions", "history", "x"],
        ["compositions", "--base-url", "{url}", "history", "x"],
        ["compositions", "history", "--base-url", "{url}", "x"],
        ["compositions", "history", "x", "--base-url={url}"],
    ],
)
def test_the_server_may_stand_anywhere(
    composer: Composer, url: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSER_BASE_URL", "http://127.0.0.1:9")
    code, out, _ = composer(*(word.format(url=url) for word in words))
    assert (code, out.count("\n")) == (0, 3)


def test_the_innermost_server_counts(composer: Composer, url: str) -> None:
    assert composer("--base-url", "http://127.0.0.1:9", "models", "--base-url", url)[0] == 0


@pytest.mark.parametrize("end", ["", "/"])
def test_the_address_may_lack_the_path(
    composer: Composer, url: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSER_BASE_URL", url.removesuffix("/v1") + end)
    assert composer("models")[0] == 0


def test_another_server_is_named(composer: Composer, url: str) -> None:
    code, _, err = composer("--base-url", f"{url}/v2", "models")
    assert code == 1
    assert f"GET {url}/v2/models: 404 Not Found" in err
    assert "--base-url" in err


def test_recipes_and_routers(composer: Composer) -> None:
    _, out, _ = composer("recipes")
    listed = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert {listed["dexperts"]["kind"], listed["posterior"]["kind"]} == {"recipe", "router"}
    assert listed["proxy_tuning"]["parameters"]["expert"]["required"] is True
    assert listed["proxy_tuning"]["parameters"]["alpha"]["default"] == 1.0
    assert "arXiv:2401.08565" in listed["proxy_tuning"]["citation"]
    code, out, err = composer("recipes", "proxy_tuning", "--no-json")
    assert (code, err) == (0, "")
    assert out.startswith("recipe proxy_tuning: base + alpha*(expert - anti_expert)\n")
    assert "    alpha=1.0: " in out


def test_version(composer: Composer) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert composer("--version") == (0, f"composer {project['version']}\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("composer ch", "chat"),
        ("composer adapters pu", "publish"),
        ("composer chat --form", "--formula"),
    ],
)
def test_the_shell_completes(words: str, expected: str) -> None:
    shell = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = run({**os.environ, **shell, "_COMPOSER_COMPLETE": "complete_bash"})
    assert done.stdout.split() == [expected]


def test_completion_can_be_shown() -> None:
    """For the shell that asks, whichever shell runs the tests."""
    command = f'"{sys.executable}" -m clients.cli.main --show-completion; exit $?'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "_COMPOSER_COMPLETE=complete_bash" in done.stdout


def test_help_is_fast() -> None:
    """No library that a command needs is imported for it: httpx, pydantic, torch, vLLM."""
    code = """
import sys
from clients.cli.main import main
main(["--help"])
print([name for name in ("composer", "httpx", "pydantic", "torch", "vllm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serve" in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--model", "/nowhere", "-tp", "1", "--max-model-len=64"], 1, "/nowhere"),
        (["--adapters", "a=b"], 2, "required: --model"),
        (["--model", "x", "--adapters", "a"], 2, "--adapters"),
    ],
)
def test_serve_is_the_server(words: list[str], status: int, message: str) -> None:
    """All words reach it, and its exit status and its error come back."""
    done = run(os.environ, "serve", *words, status=status)
    assert "error: " in done.stderr.splitlines()[-1]
    assert message in done.stderr.splitlines()[-1]


def test_the_help_of_serve_is_that_of_the_server() -> None:
    done = run(os.environ, "serve", "--help")
    assert "--adapters NAME=PATH" in done.stdout
    assert "--auxiliary" in done.stdout


def test_serve_needs_the_server() -> None:
    code = """
import sys
sys.modules["vllm"] = None  # not installed, to `find_spec`
from clients.cli.main import main
sys.exit(main(["serve", "--model", "x"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("composer: serve needs more than the client")
    assert "composer-serve[cpu]" in done.stderr


def run(
    environment: Mapping[str, str], *words: str, status: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli.main", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("words", [["chat"], ["chat", "-"]])
def test_the_question_can_come_from_a_pipe(url: str, words: list[str]) -> None:
    out, err = start(url, *words).communicate("What is\nthis?\n", timeout=30)
    assert json.loads(out)["body"]["messages"][0]["content"] == "What is\nthis?"
    assert err == ""


def test_a_conversation(url: str) -> None:
    pty = pytest.importorskip("pty")
    terminal, stdin = pty.openpty()
    words = [sys.executable, "-m", "clients.cli.main", "chat", "--base-url", url]
    with subprocess.Popen(
        words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        os.write(terminal, b"Hi\n\nAgain\n\x04")
        out, err = process.communicate(timeout=60)
    os.close(stdin)
    os.close(terminal)
    assert process.returncode == 0
    assert out.count("".join(WORDS)) == 2
    assert err == "Ctrl-D ends the conversation.\n"


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


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("module", "rank"), ("a", "16"), ("long.name", "8")], numbers=True)
    print_table([("adapter", "a"), ("seconds", "")])
    print_table([])
    assert capsys.readouterr().out == (
        "module     rank\na            16\nlong.name     8\nadapter  a\nseconds\n"
    )
