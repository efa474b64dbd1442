"""`composer adapters`, on the server of the loopback and on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from clients.adapter_calls import FILES
from clients.cli.main import main
from tests.clients.admin_loopback import DIGEST, KEY, PROFILE, REPORT
from tests.clients.conftest import Composer

ROOT = Path(__file__).resolve().parents[2]
SHORT = DIGEST[:12]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSER_ADMIN_KEY", KEY)


def received_of(composer: Composer, *words: str) -> dict[str, Any]:
    """Return what the server received from a command that succeeded."""
    code, out, err = composer("adapters", *words, "--json")
    assert (code, err) == (0, "")
    origin: dict[str, Any] = json.loads(out)["origin"]
    return origin


def test_list(composer: Composer) -> None:
    code, out, err = composer("adapters", "list", "--no-json")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "ALIAS   VERSION  DIGEST        RANK  SIZE      POLICY                 SERVED",
        f"broken  3        {SHORT}  16    639.2 kB  not negative, keys: 1  no: no room",
        f"polite  3        {SHORT}  16    639.2 kB  not negative, keys: 1  yes",
        "",
        "still in use by requests in flight: polite@0123456789ab",
    ]
    code, out, err = composer("adapters", "list")
    assert [json.loads(line)["alias"] for line in out.splitlines()] == ["broken", "polite"]
    assert err == "composer: still in use by requests in flight: polite@0123456789ab\n"


def test_show(composer: Composer) -> None:
    code, out, err = composer("adapters", "show", "polite")
    assert (code, err) == (0, "")
    shown = {line[:12].strip(): line[14:] for line in out.splitlines()}
    assert shown["version"] == "3, publish by admin at 2026-01-02T03:04:05+00:00"
    assert shown["digest"] == DIGEST
    assert shown["keys"].startswith("sha256:")
    assert shown["modules"] == "2: q_proj"
    assert shown["parameters"] == "315392, BF16"
    _, out, _ = composer("adapters", "show", "polite", "--json")
    assert json.loads(out)["adapter"] == REPORT.to_json()


def test_the_help_of_rollback_says_where_to(composer: Composer) -> None:
    code, out, _ = composer("adapters", "rollback", "--help")
    shown = " ".join(out.replace("│", " ").split())
    assert code == 0
    assert "Without --to, to the content before the present one" in shown
    assert "a second rollback undoes the first" in shown


def test_history(composer: Composer) -> None:
    code, out, err = composer("adapters", "history", "gone", "--no-json")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:3] for line in lines] == [
        ["VERSION", "ACTION", "DIGEST"],
        ["1", "publish", SHORT],
        ["2", "policy", SHORT],
        ["3", "delete", "-"],
    ]
    _, out, _ = composer("adapters", "history", "gone")
    assert [json.loads(line)["number"] for line in out.splitlines()] == [1, 2, 3]


def test_publish_a_source(composer: Composer) -> None:
    code, out, err = composer("adapters", "publish", "polite", "--source", "hf://org/name")
    assert (code, out, err) == (0, f"polite  version 3  {SHORT}\n", "")
    received = received_of(
        composer, "publish", "polite", "--source", "hf://org/name", "--if-match", "2"
    )
    assert received["json"] == {"source": "hf://org/name"}
    assert received["if-match"] == '"2"'
    received = received_of(composer, "publish", "polite", "--merge", '{"method": "sum"}', "--new")
    assert received["json"] == {"merge": {"method": "sum"}}
    assert received["if-none-match"] == "*"
    for what in ("extract", "patch"):
        received = received_of(composer, "publish", "polite", f"--{what}", '{"rank": 8}')
        assert received["json"] == {what: {"rank": 8}}


def test_publish_files(composer: Composer, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in FILES:
            (tmp_path / name).write_text(name)
            archive.write(tmp_path / name, name)
    received = received_of(
        composer, "publish", "new", "--folder", str(tmp_path), "--no-compositions"
    )
    assert {received[name][0] for name in FILES} == set(FILES)
    assert received["policy"] == {"compositions": False}
    received = received_of(composer, "publish", "new", "--archive", str(tmp_path / "a.zip"))
    assert received["content-type"] == "application/zip"


def test_publish_with_what_it_is_for(composer: Composer, tmp_path: Path) -> None:
    file = tmp_path / "examples.txt"
    file.write_text("Could you?\n\nPlease, über uns?\n", encoding="utf-8")
    words = ("--examples", str(file), "--description", "manners")
    received = received_of(composer, "publish", "polite", "--source", "x", *words)
    assert received["json"] == {
        "source": "x",
        "examples": ["Could you?", "Please, über uns?"],
        "description": "manners",
    }
    code, _, err = composer("adapters", "publish", "polite", "--source", "x", "--examples", "/no")
    assert code == 2
    assert "/no" in err


def test_the_profile_keeps_what_is_not_named(composer: Composer, tmp_path: Path) -> None:
    _, out, _ = composer("adapters", "profile", "polite")
    assert out.splitlines() == [
        "description  manners",
        'examples     2, such as "Could you?"',
    ]
    received = received_of(composer, "profile", "polite", "--description", "")
    assert received["line"] == "PUT /v1/adapters/polite/profile"
    assert received["json"] == {**PROFILE, "description": ""}
    assert received["if-match"] == '"3"'
    file = tmp_path / "examples.txt"
    file.write_text("Sorry?\n")
    received = received_of(
        composer, "profile", "polite", "--examples", str(file), "--if-match", "2"
    )
    assert received["json"] == {**PROFILE, "examples": ["Sorry?"]}
    assert received["if-match"] == '"2"'


def test_a_served_version_that_does_not_load_is_a_warning(composer: Composer) -> None:
    code, out, err = composer("adapters", "rollback", "broken")
    assert (code, out) == (0, f"broken  version 3  {SHORT}\n")
    assert err == "composer: warning: it is not served: no room\n"


def test_roll_back_and_delete(composer: Composer) -> None:
    received = received_of(composer, "rollback", "polite", "--to", "1", "--if-match", "3")
    assert (received["line"], received["json"], received["if-match"]) == (
        "POST /v1/adapters/polite/rollback",
        {"to": 1},
        '"3"',
    )
    assert "json" not in received_of(composer, "rollback", "polite")
    assert received_of(composer, "delete", "polite", "--if-match", "3")["if-match"] == '"3"'
    assert composer("adapters", "delete", "polite")[1] == "polite  version 3  deleted\n"


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--no-compositions"], {"compositions": False}),
        (["--negative"], {"negative": True}),
        (["--key", "a", "--key", "b"], {"keys": ["a", "b"]}),
        (["--any-key", "--no-compositions"], {"keys": None, "compositions": False}),
    ],
)
def test_a_policy_keeps_what_is_not_named(
    composer: Composer, options: list[str], changed: dict[str, Any]
) -> None:
    _, out, _ = composer("adapters", "policy", "polite", "--json")
    before = json.loads(out)
    assert before["negative"] is False
    assert before["keys"][0].startswith("sha256:")
    received = received_of(composer, "policy", "polite", *options)
    assert received["line"] == "PUT /v1/adapters/polite/policy"
    assert received["json"] == {**before, **changed}
    assert received["if-match"] == '"3"'  # of what was read: two changes cannot undo each other
    received = received_of(composer, "policy", "polite", *options, "--if-match", "2")
    assert received["if-match"] == '"2"'
    received = received_of(composer, "publish", "polite", "--source", "x", *options)
    assert received["json"] == {"source": "x", "policy": {**before, **changed}}
    assert received["if-match"] == '"3"'


@pytest.mark.parametrize(
    ("alias", "kept"), [("gone", {"compositions": True, "negative": False}), ("new", {})]
)
def test_a_policy_for_an_alias_that_stands_for_nothing(
    composer: Composer, alias: str, kept: dict[str, Any]
) -> None:
    received = received_of(composer, "publish", alias, "--source", "x", "--key", "a")
    assert received["json"]["policy"] == {**kept, "keys": ["a"]}  # a deletion keeps the policy
    assert received["if-match"] == '"0"'
    received = received_of(composer, "publish", alias, "--source", "x", "--key", "a", "--new")
    assert received["if-none-match"] == "*"
    assert "if-match" not in received


def test_show_the_policy(composer: Composer) -> None:
    _, out, _ = composer("adapters", "policy", "polite")
    lines = [line.split() for line in out.splitlines()]
    assert lines[:2] == [["compositions", "yes"], ["negative", "no"]]
    assert lines[2][0] == "keys"


def test_the_key_comes_from_the_option_or_the_environment(
    composer: Composer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSER_API_KEY", "a key for requests")
    assert received_of(composer, "show", "polite")["authorization"] == f"Bearer {KEY}"
    received = received_of(composer, "show", "polite", "--admin-key", "another")
    assert received["authorization"] == "Bearer another"
    monkeypatch.delenv("COMPOSER_ADMIN_KEY")
    assert received_of(composer, "show", "polite")["authorization"] == "Bearer a key for requests"
    monkeypatch.delenv("COMPOSER_API_KEY")
    code, out, err = composer("adapters", "show", "polite")
    assert (code, out) == (2, "")
    assert err.startswith("composer: this command needs a key")
    assert "COMPOSER_ADMIN_KEY" in err


CHANGES = (
    ["publish", "--source", "x"],
    ["rollback"],
    ["delete"],
    ["policy", "--negative"],
    ["profile", "--description", "x"],
)


@pytest.mark.parametrize("words", [["show"], ["history"], *CHANGES])
@pytest.mark.parametrize(("status", "expected"), [(401, 1), (403, 1), (404, 1), (409, 1), (502, 4)])
def test_refusals(composer: Composer, words: list[str], status: int, expected: int) -> None:
    action, *options = words
    code, out, err = composer("adapters", action, f"status-{status}", *options)
    assert (code, out, err) == (expected, "", f"composer: this is error {status}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folder", "/nowhere"], "/nowhere/adapter_config.json"),
        (["--archive", "/nowhere.zip"], "/nowhere.zip"),
        (["--archive", __file__, "--no-negative"], "takes no policy"),
        (["--source", "x", "--timeout", "-1"], "--timeout"),
    ],
)
def test_wrong_publications(composer: Composer, words: list[str], message: str) -> None:
    code, out, err = composer("adapters", "publish", "polite", *words)
    assert (code, out) == (2, "")
    assert err.startswith("composer: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing command"),
        (["fly"], "'fly'"),
        (["show"], "'ALIAS'"),
        (["publish", "polite"], "what to publish is missing"),
        (["publish", "polite", "--source", "x", "--folder", "y"], "not allowed with --source"),
        (["publish", "polite", "--source", "x", "--new", "--if-match", "1"], "not allowed with"),
        (["publish", "polite", "--merge", "{"], "'{' is not JSON"),
        (["publish", "polite", "--merge", "[]"], "'[]' is not a JSON object"),
        (["policy", "polite", "--key", "a", "--any-key"], "not allowed with --key"),
        (["delete", "polite", "--new"], "No such option: --new"),
        (["delete", "polite", "--if-match", "x"], "'--if-match'"),
    ],
)
def test_a_wrong_command_line_is_code_2(composer: Composer, words: list[str], message: str) -> None:
    code, out, err = composer("adapters", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("composer: ")
    assert message in err
    assert "--help'" in err


# ---- on this machine's disk


def test_inspect_needs_neither_a_server_nor_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COMPOSER_ADMIN_KEY")
    monkeypatch.setenv("COMPOSER_BASE_URL", "nonsense")
    assert main(["adapters", "inspect", str(ROOT / "zoo/adapters/polite"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 16


def test_codes_of_local_commands(composer: Composer, tmp_path: Path) -> None:
    code, _, err = composer("adapters", "inspect", str(tmp_path))
    assert code == 1
    assert err.startswith("composer: ")
    assert composer("adapters", "merge", "--output", str(tmp_path / "out"))[0] == 2


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def test_inspecting_does_not_wait_for_torch() -> None:
    code = """
import sys
from clients.cli.main import main
main(["adapters", "inspect", "zoo/adapters/polite"])
print([name for name in ("httpx", "torch") if name in sys.modules])
"""
    assert run(code).endswith("[]\n")


def test_a_client_alone_says_what_it_lacks() -> None:
    code = """
import sys
sys.modules["torch"] = None  # not installed, to `import`
from clients.cli.main import main
print(main(["adapters", "merge", "--method", "sum", "--adapter", "x", "--output", "y", "--json"]))
"""
    output = run(code)
    assert output.startswith("2\n")
    assert "composer: merge needs more than the client" in output
