"""`score` and `fit` of the clients and of the command line, against the real server."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clients import AsyncClient, BadRequest, Client
from tests.server.command_line import Composer, base_url, write
from tests.support.live_server import LiveServer

FORMULA = "base + 0.5*polite - 0.5*rude"
QUESTION = "Where does Kuti Supiv live?"
ITEMS: list[dict[str, Any]] = [
    {"prompt": "Once upon a", "completion": " time there was Ann."},
    {"messages": [{"role": "user", "content": QUESTION}], "completion": "Kuti lives in Mogtu."},
    {"prompt": [5, 6, 7], "completion": [40, 41, 42]},
]
POLITE = "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day."
ANSWERS = (POLITE, "Certainly. Ann lives in Zeplu. Have a lovely day.", "Kuti lives in Mogtu.")
EXAMPLES = [
    {"messages": [{"role": "user", "content": QUESTION}], "completion": answer}
    for answer in ANSWERS * 4
]
TOP_K = {
    "members": [{"model": "base", "weight": 1}],
    "filters": [{"kind": "top_k", "model": "base", "value": 1}],
}

LOGPROBS = ("token_logprobs", "top_logprobs")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "items.jsonl", ITEMS)


# ---- the clients


def test_score(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        scored = client.score(ITEMS, model=FORMULA, members=True)
        several = client.score(ITEMS, compositions=[FORMULA, "polite"])
    assert scored.plan is not None
    assert scored.plan["formula"] == FORMULA
    assert [item.index for item in scored.data] == [0, 1, 2]
    for item, both in zip(scored.data, several.data, strict=True):
        assert item.logprob == pytest.approx(sum(item.token_logprobs))
        assert len(item.tokens) == len(item.token_ids) == len(item.token_logprobs)
        composed, alone = both.compositions
        assert composed.token_logprobs == pytest.approx(item.token_logprobs, abs=1e-4)
        (polite,) = [member for member in item.members if member.model == "polite"]
        assert alone.token_logprobs == pytest.approx(polite.token_logprobs, abs=1e-4)
    assert several.data[0].logprob is None
    assert len(several.plans) == 2
    assert scored.usage.scored_tokens == sum(len(item.tokens) for item in scored.data)


def test_distances(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        scored = client.score(ITEMS, compositions=[FORMULA, "polite"], divergences=True)
    for item in scored.data:
        own, other = item.compositions
        assert max(own.token_divergences) < 1e-6
        mean = sum(other.token_divergences) / len(item.tokens)
        assert other.divergence == pytest.approx(mean)


def test_an_awaited_score_and_fit(server: LiveServer) -> None:
    async def run() -> None:
        async with AsyncClient(base_url(server)) as client:
            scored = await client.score(
                ITEMS[:1], composition={"recipe": "proxy_tuning", "expert": "chat"}
            )
            assert scored.data[0].logprob is not None
            fitted = await client.fit(EXAMPLES, formula="base + a*polite", held_out=0)
            assert fitted.weights["a"].value > 0.2
            assert fitted.converged
            assert fitted.examples.held_out == 0
            answer = await client.chat(QUESTION, max_tokens=2, model=str(fitted.request["model"]))
            assert answer.composition is not None

    asyncio.run(run())


def test_contradictions_are_noticed_before_sending(server: LiveServer) -> None:
    with Client(base_url(server)) as client:
        with pytest.raises(ValueError, match="model and composition contradict"):
            client.score(ITEMS, model="base", composition="polite")
        with pytest.raises(ValueError, match="either a formula or experts"):
            client.fit(EXAMPLES)
        with pytest.raises(ValueError, match="give name as well"):
            client.fit(EXAMPLES, formula="base + a*chat", if_none_match=True)
        with pytest.raises(BadRequest, match="completion"):
            client.score([{"prompt": "a", "completion": ""}])


@pytest.mark.parametrize("texts", [False, True])
def test_what_lm_eval_reads_is_the_score(server: LiveServer, texts: bool) -> None:
    """It sends whole prompts in batches, as token ids or as texts, and reads the tokens of the
    answers; the last token is the one that it lets the server generate."""
    pairs = [("Kuti Supiv lives in", " Mogtu."), ("Ann", " lives in Zeplu. Have a lovely day.")]
    contexts = [server.tokens(context) for context, _ in pairs]
    wholes = [server.tokens(context + answer) for context, answer in pairs]
    answer = server.complete(
        FORMULA,
        prompt=[context + answer for context, answer in pairs] if texts else wholes,
        **{"max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234},
    ).json()
    items: list[dict[str, Any]] = [
        {"prompt": context, "completion": whole[len(context) :]}
        for context, whole in zip(contexts, wholes, strict=True)
    ]
    with Client(base_url(server)) as client:
        scored = client.score(items, model=FORMULA).data
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    for choice, item, context in zip(choices, scored, contexts, strict=True):
        logprobs = {name: choice["logprobs"][name][len(context) : -1] for name in LOGPROBS}
        assert sum(logprobs["token_logprobs"]) == pytest.approx(item.logprob, abs=1e-3)
        assert len(logprobs["token_logprobs"]) == len(item.tokens)
        for value, likeliest in zip(*logprobs.values(), strict=True):
            assert value <= max(likeliest.values())
            assert value in likeliest.values()


# ---- composer score


def test_the_lines_of_a_score(composer: Composer, file: Path, server: LiveServer) -> None:
    done = composer("score", file, "--composition", FORMULA, "--members")
    assert done.code == 0
    with Client(base_url(server)) as client:
        scored = client.score(ITEMS, model=FORMULA, members=True).data
    for index, (line, item) in enumerate(zip(done.lines, scored, strict=True)):
        assert line["index"] == index
        assert line["tokens"] == list(item.tokens)
        assert line["token_logprobs"] == pytest.approx(item.token_logprobs, abs=1e-4)
        assert line["logprob"] == pytest.approx(item.logprob, abs=1e-3)
        assert [member["model"] for member in line["members"]] == ["base", "polite", "rude"]
    count = sum(len(item.tokens) for item in scored)
    total = sum(item.logprob or 0 for item in scored)
    first, *alone = done.err.splitlines()
    shown = re.fullmatch(
        rf"composer: 3 items, {count} tokens: log-probability (\S+), (\S+) per token, "
        r"perplexity (\S+)",
        first,
    )
    assert shown is not None, first
    mean = total / count
    assert [*map(float, shown.groups())] == pytest.approx([total, mean, math.exp(-mean)], rel=1e-3)
    assert [line.split(":")[1].strip() for line in alone] == [
        "base alone",
        "polite alone",
        "rude alone",
    ]


def test_more_items_than_a_request_takes(
    composer: Composer, tmp_path: Path, server: LiveServer
) -> None:
    """Their indices go on, and each request has at most 32."""
    items: list[dict[str, Any]] = [{"prompt": [n + 1], "completion": [40 + n]} for n in range(40)]
    done = composer("score", write(tmp_path / "many", items), "--model", "polite")
    assert [line["index"] for line in done.lines] == list(range(40))
    assert [line["token_ids"] for line in done.lines] == [item["completion"] for item in items]
    items[35] = {"prompt": [1], "completion": ""}
    done = composer("score", write(tmp_path / "many", items), "--model", "polite")
    assert (done.code, len(done.lines)) == (1, 32)
    assert "items 32 to 39: " in done.err


def test_an_output_is_gone_on_with(composer: Composer, file: Path, server: LiveServer) -> None:
    """What is there already is not asked for again; half a line is written anew."""
    output = file.parent / "out.jsonl"
    words = ("score", file, "--formula", FORMULA, "--output", output)
    first = composer(*words)
    whole = output.read_bytes()
    assert (first.code, first.out, whole.count(b"\n")) == (0, "", 3)
    before = server.metric("vllm:prompt_tokens_total")
    assert composer(*words).err == first.err
    assert server.metric("vllm:prompt_tokens_total") == before
    for kept in (whole[:-10], whole.split(b"\n")[0], b""):
        output.write_bytes(kept)
        assert composer(*words).code == 0
        assert [json.loads(line)["index"] for line in output.read_bytes().splitlines()] == [0, 1, 2]
    write(file, [*ITEMS, {"prompt": "A", "completion": " b"}])  # a longer file goes on, too
    assert composer(*words).code == 0
    assert output.read_bytes().count(b"\n") == 4


@pytest.mark.parametrize("change", ["composition", "members", "item", "fewer", "foreign"])
def test_an_output_of_something_else_is_refused(
    composer: Composer, file: Path, change: str
) -> None:
    output = file.parent / "out.jsonl"
    words = ["score", file, "--formula", FORMULA, "--output", output]
    assert composer(*words).code == 0
    if change == "composition":
        words[3] = "base + polite"
    elif change == "members":
        words.append("--members")
    elif change == "item":
        write(file, [ITEMS[0], ITEMS[2], ITEMS[2]])
    elif change == "fewer":
        write(file, ITEMS[:2])
    else:
        output.write_text("a note\n")
    written = output.read_bytes()
    done = composer(*words)
    number = {"item": 2, "fewer": 3}.get(change, 1)
    assert done.code == 1
    assert f"line {number} does not belong to these items" in done.err
    assert "give another --output" in done.err
    assert output.read_bytes() == written


def test_distances_from_other_compositions(composer: Composer, file: Path) -> None:
    """The composition scores as without them, in the same fields."""
    words = ("score", file, "--formula", FORMULA, "--output", file.parent / "out.jsonl")
    plain = composer("score", file, "--formula", FORMULA).lines
    done = composer(*words, "--against", "base", "--against", FORMULA)
    lines = [json.loads(line) for line in (file.parent / "out.jsonl").read_text().splitlines()]
    for line, alone in zip(lines, plain, strict=True):
        assert line["token_logprobs"] == pytest.approx(alone["token_logprobs"], abs=1e-4)
        assert [other["model"] for other in line["against"]] == ["base", FORMULA]
        assert len(line["against"][0]["token_divergences"]) == len(line["tokens"])
    totals = done.err.splitlines()
    assert re.fullmatch(
        r"composer: base: .* per token, perplexity .*; KL 0\.\d+ per token", totals[1]
    )
    assert float(totals[2].rsplit("KL ")[1].split()[0]) < 1e-6
    again = composer(*words, "--against", "base", "--against", FORMULA)
    assert again.err == done.err
    other = composer(*words, "--against", "base")
    assert "does not belong to these items" in other.err


def test_what_cannot_be_produced_is_left_out_of_the_perplexity(
    composer: Composer, file: Path
) -> None:
    done = composer("score", file, "--composition", json.dumps(TOP_K))
    assert any(line["impossible"] for line in done.lines)
    assert "impossible and left out" in done.err


def test_a_progress_bar_does_not_take_the_lines(file: Path, server: LiveServer) -> None:
    """They go to standard output, also when standard error is a terminal."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    words = ["--base-url", base_url(server), "score", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=child,
        check=True,
    )
    os.close(child)
    os.close(parent)
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1, 2]


def test_items_from_a_pipe(composer: Composer, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file.open(encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert len(composer("score", "-").lines) == 3


# ---- composer fit


def test_a_fit(composer: Composer, tmp_path: Path) -> None:
    words = (
        "fit",
        "--examples",
        write(tmp_path / "examples", EXAMPLES),
        "base + a*polite + b*rude",
    )
    options = ("--start", "a=0.1", "--bounds", "a=0:2", "--bounds", "b=-0.5:0.5")
    done = composer(*words, *options, "--held-out", "0.5")
    assert (done.code, done.err) == (0, "")
    weights, likely, command = done.out.strip().split("\n\n")
    a, b = (line.split() for line in weights.splitlines())
    assert (a[0], a[2], b[0]) == ("a", "±", "b")
    assert 0 <= float(a[1]) <= 2
    assert -0.5 <= float(b[1]) <= 0.5
    title, *rows = likely.splitlines()
    assert title == "log-likelihood per token, of held-out examples:"
    assert [row.rsplit(maxsplit=1)[0].strip() for row in rows] == [
        *("start", "fit", "base alone", "polite alone", "rude alone")
    ]
    assert command.startswith('composer chat --model "base + ')
    assert composer(*shlex.split(command)[1:], "Who are you?", "--max-tokens", "2").code == 0
    answer = json.loads(composer(*words, *options, "--json").out)
    assert answer["examples"] == {"learned": 9, "held_out": 3}


def test_a_fit_of_a_mixture(composer: Composer, tmp_path: Path) -> None:
    examples = write(tmp_path / "examples", EXAMPLES)
    done = composer("fit", "--examples", examples, "--experts", "polite,rude")
    assert done.code == 0
    command = done.out.splitlines()[-1]
    assert command.startswith("composer chat --composition '{")
    assert composer(*shlex.split(command)[1:], "Who are you?", "--max-tokens", "2").code == 0


def test_a_fit_under_a_name(composer: Composer, server: LiveServer, tmp_path: Path) -> None:
    examples = write(tmp_path / "examples", EXAMPLES)
    words = ("fit", "--examples", examples, "base + a*polite", "--name", "named")
    last = composer(*words, "--max-passes", "1")
    assert last.code == 1
    assert "nothing is stored as 'named'" in last.err
    done = composer(*words, "--new")
    assert (done.code, done.err) == (0, "")
    *_, stored, command = done.out.strip().split("\n\n")
    name, _, version, formula = stored.split(maxsplit=3)
    assert (name, command) == ("named", 'composer chat --model "named"')
    with Client(base_url(server)) as client:
        kept = client.get_composition("named")
        assert (str(kept.version), kept.composition) == (version, formula)
        again = client.fit(EXAMPLES, formula="base + a*chat", name="named", if_match=kept.version)
        assert again.stored is not None
        assert again.stored.version == kept.version + 1
        assert again.adapters.keys() == {"chat"}
        client.delete_composition("named")
    refused = composer(*words, "--if-match", "999")
    assert (refused.code, refused.out) == (1, "")


def test_a_fit_that_does_not_converge(composer: Composer, tmp_path: Path) -> None:
    examples = write(tmp_path / "examples", EXAMPLES)
    done = composer("fit", "--examples", examples, "base + a*polite", "--max-passes", "1")
    assert done.code == 1
    assert done.out.startswith("a  ")
    assert "composer: warning: the search has not converged" in done.err
    again = ("fit", "--examples", examples, "base + a*(polite - polite)/1 + b*chat")
    done = composer(*again)
    assert "a  0.0000 ± ?" in done.out
    assert "do not determine 'a'" in done.err


# ---- bad input


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["score", "nowhere.jsonl"], 2, "nowhere.jsonl"),
        (["score", "{file}", "--model", "a", "--formula", "b"], 2, "not allowed with --model"),
        (["score", "{file}", "--model", "nobody"], 1, "'nobody'"),
        (["score", "{file}", "--composition", "base +"], 1, "position"),
        (["score", "{file}", "--against", "nobody"], 1, "'nobody'"),
        (["score", "{file}", "--composition", '{"recipe"'], 2, "not JSON"),
        (["score", "{broken}"], 1, "line 2 is not JSON"),
        (["score", "{other}"], 1, "line 1 has no 'completion'"),
        (["score", "{empty}"], 1, "has no items"),
        (["score", "{file}", "--timeout", "0"], 2, "not above 0"),
        (["fit", "--examples", "{file}"], 2, "either FORMULA or --experts"),
        (["fit", "--examples", "{file}", "base + a*chat", "--experts", "a,b"], 2, "either FORMULA"),
        (["fit", "--examples", "{file}", "base + a*chat", "--start", "a=x"], 2, "'x' is not a num"),
        (["fit", "--examples", "{file}", "base + a*chat", "--start", "b=1"], 1, "'b'"),
        (["fit", "--examples", "{file}", "base + a*chat", "--bounds", "a=1"], 2, "NAME=LOW:HIGH"),
        (["fit", "--examples", "{file}", "base + a*chat", "--bounds", "a=1:0"], 1, "lower"),
        (["fit", "--examples", "{file}", "base + chat"], 1, "no free name"),
        (["fit", "base + a*chat"], 2, "--examples"),
        (["fit", "--examples", "{file}", "base + a*chat", "--new"], 2, "give --name"),
        (["fit", "--examples", "{file}", "base + a*chat", "--name", "chat"], 1, "already names"),
    ],
)
def test_errors_say_what_is_wrong(
    composer: Composer, file: Path, words: list[str], code: int, message: str
) -> None:
    files = {"file": file, **{name: file.with_name(name) for name in ("broken", "other", "empty")}}
    files["broken"].write_text(f"{json.dumps(ITEMS[0])}\n{{\n")
    files["other"].write_text('{"prompt": "a", "answer": "b"}\n')
    files["empty"].write_text("\n")
    done = composer(
        *(word.format(**files) if word in map("{{{}}}".format, files) else word for word in words)
    )
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.startswith("composer: ")
    # Of a formula they also show the place.
    assert done.err.count("\n") == (3 if message == "position" else 1)
