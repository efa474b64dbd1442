"""Replace one alias 200 times in a minute of mixed traffic, and check every token.

Every answer reports the generation that computed it. The oracle computes the same answer with PEFT
from the files of that generation and compares token for token.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from transformers import AutoTokenizer

import zoo
from bench.claim import Result
from bench.machine.processes import resident_bytes
from bench.machine.server import serving
from bench.measure import show, table
from composer.reference.oracle import TIE, Oracle, OracleRow
from zoo.tasks import tasks

SWAPS = 200
PERIOD_S = 60.0
QUIET_S = 20.0
CLIENTS = 6
ABORTS = 0.1
MOST_GROWTH_MIB = 8.0
KV_BYTES = 64 << 20
GAP_RATIO = 3.0
ALIAS = "manner"
SOURCES = ("polite", "rude")
KEY = "the key of this benchmark"

ENVIRONMENT = {
    "COMPOSER_ADMIN_KEY": KEY,
    # oneDNN caches up to 1,024 compiled kernels, one per batch shape: 100 MiB that take thousands
    # of requests to fill. A small cache leaves only the growth of the server itself.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
}

MEMBERS: dict[str, tuple[tuple[float, str | None], ...]] = {
    "base": ((1.0, None),),
    "chat": ((1.0, "chat"),),
    ALIAS: ((1.0, ALIAS),),
    f"chat + 0.8*({ALIAS} - base)": ((1.0, "chat"), (0.8, ALIAS), (-0.8, None)),
    f"2*{ALIAS} - chat": ((2.0, ALIAS), (-1.0, "chat")),
}
"""Value of `model` -> members of its plan: (weight, alias); None is the base."""


@dataclass
class Answer:
    """One finished request."""

    model: str
    prompt: tuple[int, ...]
    tokens: list[int]
    digest: str | None  # of the generation of ALIAS that computed the answer
    arrivals: list[float]  # of the tokens, seconds


@dataclass
class Record:
    """Results of all clients."""

    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    aborted: int = 0


@dataclass(frozen=True, slots=True)
class Swap:
    """One publication: start and end in seconds on the clients' clock, and the new version."""

    start: float
    end: float
    version: int


def measure() -> Result:
    """Return failed requests plus answers that the reported generation would not have given."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *("--adapter-store", folder, "--adapter-root", str(zoo.PROJECT / "zoo" / "adapters")),
            # Small, so that all of it is in use when memory is first measured.
            *("--kv-cache-memory-bytes", str(KV_BYTES)),
        ]
        with serving(ENVIRONMENT, options) as client:
            return asyncio.run(_measure(str(client.base_url)))


async def _measure(url: str) -> Result:
    prompts = _prompts()
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        digests = {(await _publish(http, source))["digest"]: source for source in SOURCES}
        await _traffic(http, prompts, 3.0, seed=0)  # warm up every path
        quiet = await _traffic(http, prompts, QUIET_S, seed=1)
        swaps: list[Swap] = []
        sizes: list[int] = []
        busy, _ = await asyncio.gather(
            _traffic(http, prompts, PERIOD_S, seed=2), _swap(http, swaps, sizes)
        )
        retiring = await _await_retired(http)
    wrong, ties, telling = _compare(busy.answers + quiet.answers, digests)
    failed = quiet.failures + busy.failures
    show("\n".join(failed[:10]))
    calm = _percentile(_gaps(quiet.answers), 99)
    during = _percentile(_gaps(busy.answers, swaps), 99)
    growth = (sizes[-1] - sizes[len(sizes) // 4]) / 2**20
    show(
        table(
            ("what", "value"),
            [
                ("publications", len(swaps)),
                ("longest, ms", f"{max(s.end - s.start for s in swaps) * 1e3:.0f}"),
                ("median, ms", f"{statistics.median(s.end - s.start for s in swaps) * 1e3:.0f}"),
                ("answers compared", len(busy.answers) + len(quiet.answers)),
                ("of both generations", _by_generation(busy.answers, digests)),
                ("answers that the other generation would not have given", telling),
                ("near-ties allowed", ties),
                ("aborted", busy.aborted + quiet.aborted),
                ("failed", len(failed)),
                ("wrong", wrong),
                ("p99 gap between tokens without swaps, ms", f"{calm * 1e3:.1f}"),
                ("p99 gap during a swap, ms", f"{during * 1e3:.1f}"),
                (f"ratio (at most {GAP_RATIO:g})", f"{during / calm:.2f}"),
                (f"memory of the server from swap {SWAPS // 4} on, MiB", f"{growth:+.1f}"),
                ("generations still held at the end", len(retiring)),
            ],
        )
    )
    holds = (
        len(swaps) == SWAPS
        and during <= GAP_RATIO * calm
        and growth <= MOST_GROWTH_MIB
        and not retiring
        and telling > 0
    )
    return Result(len(failed) + wrong, holds=holds)


# ---- traffic


async def _traffic(
    http: httpx.AsyncClient, prompts: Sequence[tuple[int, ...]], seconds: float, seed: int
) -> Record:
    """Run `CLIENTS` clients, each sending one request after another and aborting some of them."""
    record = Record()
    end = time.monotonic() + seconds
    await asyncio.gather(
        *(_client(http, prompts, end, random.Random(f"{seed} {n}"), record) for n in range(CLIENTS))
    )
    return record


async def _client(
    http: httpx.AsyncClient,
    prompts: Sequence[tuple[int, ...]],
    end: float,
    rng: random.Random,
    record: Record,
) -> None:
    while time.monotonic() < end:
        model, prompt = rng.choice(sorted(MEMBERS)), rng.choice(prompts)
        abort_after = rng.randrange(1, 10) if rng.random() < ABORTS else None
        answer = Answer(model, prompt, [], None, [])
        try:
            async for token_ids, digest in _stream(http, model, prompt):
                answer.tokens += token_ids
                answer.digest = answer.digest or digest
                answer.arrivals.append(time.monotonic())
                if abort_after is not None and len(answer.tokens) >= abort_after:
                    break
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            record.failures.append(f"{model}: {error!r}")
            continue
        if abort_after is not None and len(answer.tokens) >= abort_after:
            record.aborted += 1
        record.answers.append(answer)  # the beginning of an aborted answer is compared as well


async def _stream(
    http: httpx.AsyncClient, model: str, prompt: Sequence[int]
) -> AsyncIterator[tuple[list[int], str | None]]:
    """Yield token ids as they arrive, with the digest of ALIAS if the chunk reports it.

    Raises:
        RuntimeError: the server refused the request, or the stream broke off.
    """
    body = {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": 24,
        "temperature": 0,
        "stream": True,
        "return_token_ids": True,
    }
    async with http.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError((await response.aread()).decode())
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data:"):
                chunk: dict[str, Any] = json.loads(line.removeprefix("data:"))
                if "error" in chunk:
                    raise RuntimeError(line)
                tokens = [t for choice in chunk["choices"] for t in choice.get("token_ids") or ()]
                yield tokens, chunk.get("adapters", {}).get(ALIAS)
    raise RuntimeError("the stream ended without [DONE]")


def _prompts() -> list[tuple[int, ...]]:
    """Return questions as token ids of the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(zoo.BASE)
    prompts = []
    for example in tasks()["chat"].evaluation(40, seed=7):
        messages = [{"role": "user", "content": example.messages[-1]["content"]}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompts.append(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return prompts


# ---- swaps


async def _publish(http: httpx.AsyncClient, source: str) -> dict[str, Any]:
    response = await http.put(
        f"/v1/adapters/{ALIAS}",
        json={"source": source},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


async def _swap(http: httpx.AsyncClient, swaps: list[Swap], sizes: list[int]) -> None:
    """Replace the alias `SWAPS` times, evenly spaced; append the server's memory to `sizes`."""
    begin = time.monotonic()
    for n in range(SWAPS):
        await asyncio.sleep(max(0.0, begin + n * PERIOD_S / SWAPS - time.monotonic()))
        start = time.monotonic()
        version = (await _publish(http, SOURCES[n % 2]))["number"]
        swaps.append(Swap(start, time.monotonic(), version))
        sizes.append(resident_bytes(os.getpid(), itself=False))  # this process keeps all answers


async def _await_retired(http: httpx.AsyncClient) -> list[str]:
    """Wait up to five seconds for retiring generations to go; return those still held."""
    for _ in range(50):
        answer = await http.get("/v1/adapters", headers={"Authorization": f"Bearer {KEY}"})
        retiring: list[str] = answer.json()["retiring"]
        if not retiring:
            break
        await asyncio.sleep(0.1)
    return retiring


# ---- judgement


def _compare(answers: Iterable[Answer], digests: dict[str, str]) -> tuple[int, int, int]:
    """Count wrong answers, near-ties, and answers that tell the two generations apart."""
    oracle = Oracle(zoo.BASE, {name: zoo.ADAPTERS[name] for name in ("chat", *SOURCES)})
    wrong = ties = telling = 0
    for answer in answers:
        if answer.digest is None:
            if ALIAS in answer.model:
                wrong += bool(answer.tokens)  # the answer does not report its generation
                continue
            source = None
        else:
            source = digests[answer.digest]
        mismatches = oracle.mismatches(_rows(answer, source), (), answer.tokens)
        wrong += any(m.gap >= TIE for m in mismatches)
        ties += sum(m.gap < TIE for m in mismatches)
        if source is not None:
            other = SOURCES[source == SOURCES[0]]
            telling += any(
                m.gap >= TIE for m in oracle.mismatches(_rows(answer, other), (), answer.tokens)
            )
    return wrong, ties, telling


def _rows(answer: Answer, source: str | None) -> list[OracleRow]:
    return [
        OracleRow(weight, source if alias == ALIAS else alias, answer.prompt)
        for weight, alias in MEMBERS[answer.model]
    ]


def _by_generation(answers: Iterable[Answer], digests: dict[str, str]) -> str:
    sources = [digests[a.digest] for a in answers if a.digest is not None]
    return ", ".join(f"{sources.count(source)} {source}" for source in SOURCES)


def _gaps(answers: Iterable[Answer], swaps: Sequence[Swap] = ()) -> list[float]:
    """Return seconds between tokens of one answer; with `swaps`, only gaps that overlap a swap."""
    return [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)
        if not swaps or any(s.start < later and earlier < s.end for s in swaps)
    ]


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
