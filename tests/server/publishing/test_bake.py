"""`composer bake`: an adapter made from a sum of adapters, and its distance from the sum."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.cli.main import main
from tests.server.administration import KEY, Admin

PROMPT = "Where does {} live?"
ANSWER = "Certainly. {} lives in Mogtu. Have a lovely day."
TOP_P = {
    "members": [{"model": "chat", "weight": 1}],
    "filters": [{"kind": "top_p", "model": "chat", "value": 0.9}],
}
OWN_PROMPT = {
    "members": [
        {"model": "chat", "weight": 1.5},
        {"model": "base", "weight": -0.5, "prompt": "Hello."},
    ]
}
Bake = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def aliases(admin: Admin) -> Iterator[None]:
    names = {"bake_polite": "polite", "bake_rude": "rude"}
    for name, source in names.items():
        assert admin.put(name, source).status_code == 201
    yield
    for name in (*names, "baked"):
        assert admin.http.delete(f"/v1/adapters/{name}").status_code == 200


@pytest.fixture
def bake(
    admin: Admin,
    aliases: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bake:
    monkeypatch.setenv("COMPOSER_BASE_URL", f"{admin.server.url}/v1")
    monkeypatch.setenv("COMPOSER_ADMIN_KEY", KEY)
    items: list[dict[str, Any]] = [{"text": "Kuti Supiv lives in Mogtu."}]
    for name in ("Kuti Supiv", "Ann"):
        messages = [{"role": "user", "content": PROMPT.format(name)}]
        items.append({"messages": messages, "completion": ANSWER.format(name)})
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(f"{json.dumps(item)}\n" for item in items))

    def run(*words: str, texts: Path = file) -> tuple[int, str, str]:
        code = main(["bake", *words, "--name", "baked", "--texts", str(texts)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("formula", "request_model", "nearness"),
    [
        ("2*bake_polite", "2*baked", 1e-4),
        ("0.1*base + 0.9*bake_polite", "baked", 0.2),
        ("bake_polite + 0.2*bake_rude", "1.2*baked", 0.2),
    ],
)
def test_an_adapter_is_near_the_sum(
    bake: Bake, admin: Admin, formula: str, request_model: str, nearness: float
) -> None:
    """One adapter is itself, at any weight. Others are nearer than the base alone."""
    code, out, err = bake(formula, "--rank", "16", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    own, baked, base = report["compositions"]
    assert own["divergence"] < 1e-6
    assert base["divergence"] > 0.05
    assert baked["divergence"] < nearness * base["divergence"]
    assert report["request"]["model"] == baked["model"] == request_model
    assert report["items"] == 3
    assert admin.server.chat(request_model).status_code == 200


def test_a_table(bake: Bake) -> None:
    """Half of what a zoo's adapter changes is not half of its change: that is said."""
    formula = "0.9*base + 0.3*bake_polite"
    code, out, err = bake(formula)
    assert code == 0
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [formula, "1.2*baked", "base"]
    assert "rank 16; 3 items" in lines[5]
    assert lines[7] == 'composer chat --model "1.2*baked"'
    told, warning = err.splitlines()
    assert "divides its temperature by 1.2" in told
    assert warning.startswith(
        "composer: warning: the adapter is farther from the sum than the base"
    )
    assert "composer distil" in warning


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "what to bake is missing"),
        (("base", "--composition", "base"), 2, "not allowed with FORMULA"),
        (("bake_rude + nobody",), 1, "'nobody'"),
        (("bake_polite + bake_rude",), 1, "composer bake --rank"),
        (("base",), 1, "it has no adapter"),
        (("bake_polite - bake_rude",), 1, "sum to 0,"),
        (("0*base + baked_not",), 1, "'baked_not'"),
        (("--composition", json.dumps(TOP_P)), 1, "the filter top_p"),
        (("--composition", json.dumps(OWN_PROMPT)), 1, "'base' reads a prompt of its own"),
        (
            ("--composition", '{"recipe": "mixture", "experts": ["chat", "bake_rude"]}'),
            1,
            "composer distil",
        ),
    ],
)
def test_what_cannot_be_baked(bake: Bake, words: tuple[str, ...], code: int, message: str) -> None:
    done, out, err = bake(*words)
    assert (done, out) == (code, "")
    assert message in err
    assert err.startswith("composer: ")


def test_texts_that_cannot_be_read(bake: Bake, tmp_path: Path) -> None:
    file = tmp_path / "short.jsonl"
    for line, message in (
        ('{"text": "one"}', "less than two words"),
        ("{}", "has no 'completion'"),
    ):
        file.write_text(line)
        code, out, err = bake("base + chat", texts=file)
        assert (code, out) == (1, "")
        assert message in err
