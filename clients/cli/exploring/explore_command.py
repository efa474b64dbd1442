"""`composer explore`: what has this adapter learned?"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from clients.cli.connection import asks_server, connect_patiently
from clients.cli.exploring.openings import openings
from clients.cli.exploring.ranking import Word, distinctive, rank
from clients.cli.exploring.samples import Contrast, Sample, draw
from clients.cli.local_work import show_progress
from clients.cli.tables import Json, print_table

if TYPE_CHECKING:
    from clients.client import Client

WIDTH, WORDS = 100, 15
"""Characters of a sample, and words, that are printed."""


@asks_server(connect_patiently)
def explore(
    client: Client,
    adapter: Annotated[str, Argument(metavar="ADAPTER")],
    base: Annotated[
        str, Option(metavar="NAME", help="What it is compared with, such as another adapter.")
    ] = "base",
    prompts: Annotated[
        Path | None,
        Option(metavar="FILE", help="Requests to answer, one a line, in place of the default."),
    ] = None,
    plain: Annotated[
        bool, Option("--plain", help="Continue texts only; send no chat messages.")
    ] = False,
    samples: Annotated[int, Option(min=1, help="How many texts are sampled.")] = 48,
    top: Annotated[int, Option(min=1, help="How many are printed.")] = 10,
    max_tokens: Annotated[int, Option(min=1, help="Of a text.")] = 40,
    weight: Annotated[
        float, Option(min=0, help="How far samples go beyond what the adapter says itself.")
    ] = 1.0,
    plausibility: Annotated[
        float,
        Option(min=0, max=1, help="Lowest probability relative to the likeliest token."),
    ] = 0.1,
    temperature: Annotated[float, Option(min=0.01, help="Of the samples.")] = 1.0,
    seed: Annotated[int, Option(help="Of the samples.")] = 0,
    json: Json = False,
) -> None:
    """Find what an adapter has learned: texts that it finds much likelier than the base does."""
    if adapter == base:
        raise typer.BadParameter(f"'{base}' is what it is compared with; name an adapter")
    contrast = Contrast(adapter, base, weight, plausibility, temperature, max_tokens, seed)
    begin = openings(prompts, plain=plain)
    with show_progress() as step:
        drawn = draw(client, contrast, begin, samples, step)
    ranked = rank(drawn)
    words = distinctive(ranked, WORDS)
    if json:
        print(dumps(_report(contrast, drawn, ranked[:top], words)))
        return
    print(f"{len(drawn)} samples, {len(ranked)} that differ; log-probabilities per token\n")
    header = ("gain", adapter, base, "text")
    print_table([header, *(_row(sample) for sample in ranked[:top])])
    print(f"\nwords: {', '.join(word.text for word in words)}")


def _row(sample: Sample) -> tuple[str, ...]:
    begin = sample.opening.text if sample.opening.plain else ""
    shown = textwrap.shorten(f"{begin}{sample.text}", WIDTH, placeholder=" …")
    return f"{sample.gain:.2f}", f"{_mean(sample.tuned):.2f}", f"{_mean(sample.base):.2f}", shown


def _report(
    contrast: Contrast, drawn: Sequence[Sample], ranked: Sequence[Sample], words: Sequence[Word]
) -> dict[str, object]:
    return {
        "adapter": contrast.adapter,
        "base": contrast.base,
        "samples": len(drawn),
        "words": [{"word": w.text, "gain": round(w.gain, 4), "samples": w.samples} for w in words],
        "top": [
            {
                "gain": sample.gain,
                "adapter": _mean(sample.tuned),
                "base": _mean(sample.base),
                "tokens": len(sample.tokens),
                "opening": sample.opening.text,
                "text": sample.text,
                "words": [word.text for word in distinctive([sample], 5)],
            }
            for sample in ranked
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
