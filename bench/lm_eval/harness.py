"""Run lm_eval against a server, and read its metrics and samples."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.lm_eval.installation import lm_eval_command
from bench.machine.environment import original

TASKS = Path(__file__).parent / "tasks"
MAX_LENGTH = 512
"""Context that lm_eval may use, in tokens: the pages of wikitext need several windows."""

BATCH = 8
TIMEOUT_S = 3600  # of a request; lm_eval sends it again after five minutes by default


@dataclass(frozen=True, slots=True)
class Scored:
    """A text whose log-likelihood lm_eval asked for, after a context; None: from a page's start.

    `logprob` is in nats; `greedy` says whether each token is the likeliest (None: of a page).
    """

    context: str | None
    text: str
    logprob: float
    greedy: bool | None


@dataclass(frozen=True, slots=True)
class Generated:
    """A text that lm_eval asked for; it ends before the first of `until`."""

    prompt: str
    until: tuple[str, ...]
    max_tokens: int
    text: str


Request: TypeAlias = Scored | Generated


@dataclass(frozen=True, slots=True)
class Sample:
    """An item of a task and its requests."""

    item: dict[str, Any]
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """By task: metrics by name (`acc,none`), and samples."""

    metrics: dict[str, dict[str, float]]
    samples: dict[str, list[Sample]]


def evaluate(
    url: str, model: str, groups: Sequence[str], tokenizer: Path, items: Path, output: Path
) -> Evaluation:
    """Run task groups of `TASKS` on a model of a server.

    Args:
        url: of the server.
        model: a model, a formula without commas, or a stored composition.
        groups: names in `TASKS`.
        tokenizer: folder of the base model.
        items: folder with the files that `bench.lm_eval.items` writes.
        output: an empty folder for lm_eval's files.

    Raises:
        subprocess.CalledProcessError: lm_eval failed; it has printed why.
    """
    arguments = {
        "base_url": f"{url}/v1/completions",
        "model": model,
        "tokenizer": str(tokenizer),
        "tokenizer_backend": "huggingface",
        "max_length": str(MAX_LENGTH),
        "timeout": str(TIMEOUT_S),
    }
    command = [
        *(str(lm_eval_command()), "--model", "local-completions", "--include_path", str(TASKS)),
        *("--tasks", ",".join(groups), "--batch_size", str(BATCH), "--log_samples"),
        *("--output_path", str(output)),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(output / "cache")}
    local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    subprocess.run(
        command,
        cwd=items,
        env=original() | offline | local | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    [results] = output.glob("*/results_*.json")
    metrics = json.loads(results.read_text(encoding="utf-8"))["results"]
    samples = {
        path.name.removeprefix("samples_").rpartition("_")[0]: read_samples(path)
        for path in sorted(results.parent.glob("samples_*.jsonl"))
    }
    return Evaluation({task: metrics[task] for task in samples}, samples)


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a task. Each filter of the task repeats them: keep the first."""
    samples: dict[int, Sample] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        arguments = [tuple(request.values()) for request in fields["arguments"].values()]
        requests = [_request(a, r[0]) for a, r in zip(arguments, fields["resps"], strict=True)]
        samples.setdefault(fields["doc_id"], Sample(fields["doc"], requests))
    return [samples[number] for number in sorted(samples)]


def _request(arguments: tuple[Any, ...], response: Any) -> Request:
    """Return a request from lm_eval's log, in which numbers and flags of responses are strings."""
    match arguments:
        case (str(page),):
            return Scored(None, page, float(response), None)
        case str(context), str(text):
            return Scored(context, text, float(response[0]), response[1] == "True")
        case str(prompt), {"until": until, "max_gen_toks": max_tokens}:
            return Generated(prompt, tuple(until), max_tokens, response)
    raise ValueError(f"lm_eval logged a request of another form: {arguments}")
