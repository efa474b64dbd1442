"""`sweep` of the clients and `composer sweep`, against the real server."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from clients import AsyncClient, Client
from tests.server.command_line import Composer, base_url
from tests.support.live_server import LiveServer

FORMULA = "base + a*(polite - rude)"
QUESTION = "Where does Kuti Supiv live?"
REFERENCE = "Certainly. Kuti Supiv lives in Mogtu."
WORDS = ("sweep", FORMULA, "--set", "a=0,0.5,1", "--question", QUESTION, "--max-tokens", "24")


def test_sweep(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        swept = client.sweep(
            FORMULA, values={"a": [0, 1]}, messages=QUESTION, reference=REFERENCE, max_tokens=24
        )
        for point in swept.data:
            alone = client.chat(QUESTION, model=point.formula, temperature=0, max_tokens=24)
            assert point.text == alone.text
            assert point.usage.completion_tokens == (alone.usage and alone.usage.completion_tokens)
    assert swept.reference is not None
    assert "".join(swept.reference.tokens) == REFERENCE
    scores = [point.reference.logprob for point in swept.data if point.reference is not None]
    assert scores[1] is not None
    assert scores[0] is not None
    assert scores[1] > scores[0], "what 'polite' was trained on"


def test_an_awaited_sweep(server: LiveServer) -> None:
    async def run() -> None:
        async with AsyncClient(base_url(server)) as client:
            swept = await client.sweep(
                FORMULA, points=[{"a": 0.5}], prompt="Once", max_tokens=2, temperature=1, seed=1
            )
            assert swept.free == ("a",)
            assert swept.data[0].values == {"a": 0.5}

    asyncio.run(run())


def test_contradictions_are_noticed_before_sending(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        with pytest.raises(ValueError, match="values or points"):
            client.sweep(FORMULA, prompt="Once")
        with pytest.raises(ValueError, match="prompt or messages"):
            client.sweep(FORMULA, values={"a": [1]})


def test_the_table_and_the_plot(composer: Composer, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    done = composer(*WORDS, "--reference", REFERENCE, "--plot", plot)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.split() == ["a", "per", "token", "answer"]
    answer = json.loads(composer(*WORDS, "--reference", REFERENCE, "--json").out)
    means = []
    for row, point in zip(rows, answer["data"], strict=True):
        value, mean, *_ = row.split()
        assert float(value) == point["values"]["a"]
        logprobs = point["reference"]["token_logprobs"]
        assert float(mean) == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-3)
        means.append(float(mean))
        assert row.endswith(" ".join(point["text"].split()))
    best = max(range(3), key=means.__getitem__)
    assert rows[best].count("█") == max(row.count("█") for row in rows) == 16
    shapes = ElementTree.parse(plot).iter()
    assert sum(shape.tag.endswith("circle") for shape in shapes) == 3


def test_a_table_without_a_reference(composer: Composer) -> None:
    grid = ("--set", "a=0,1", "--set", "b=1", "--prompt", "Once", "--max-tokens", "2")
    done = composer("sweep", "base + a*polite + b*rude", *grid)
    head, *rows = done.out.splitlines()
    assert head.split() == ["a", "b", "answer"]
    assert [row.split()[:2] for row in rows] == [["0", "1"], ["1", "1"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sweep", FORMULA, "--set", "a=1"], 2, "either --prompt or --question"),
        (["sweep", FORMULA, "--set", "a", "--prompt", "x"], 2, "NAME=VALUE,VALUE"),
        (["sweep", FORMULA, "--set", "a=x", "--prompt", "x"], 2, "'a=x'"),
        (["sweep", FORMULA, "--set", "a=1", "--set", "a=2", "--prompt", "x"], 2, "'a' twice"),
        ([*WORDS, "--plot", "x.svg"], 2, "--reference, which is missing"),
        (["sweep", FORMULA, "--set", "a=1", "--prompt", "x", "--system", "y"], 2, "not allowed"),
        (["sweep", FORMULA, "--prompt", "x"], 2, "--set"),
        (["sweep", FORMULA, "--set", "b=1", "--prompt", "x"], 1, "'b' is not a free name"),
    ],
)
def test_errors_say_what_is_wrong(
    composer: Composer, words: list[str], code: int, message: str
) -> None:
    done = composer(*words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
