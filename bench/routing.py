"""How often `auto` is right on SmolLM2's adapters, by words and by meaning.

`python -m bench.routing [--prompt-encoder FOLDER]` prints the table of docs/routing.md. The prompts
of the adapters have the wordings of their examples or others; no prompt is an example.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import experts
from bench.claims.auto_none import answering, choices, examples, foreign_prompts
from bench.measure import show, table
from composer.fields import BASE
from composer.mixtures.encoded import EncodedSimilarity
from composer.mixtures.similarity import Similarity
from composer.mixtures.tfidf import PromptSimilarity
from experts.texts.corpus import held_out_prompts, paraphrased_prompts
from server.compose.routing.sentence_encoder import SentenceEncoder

PROMPTS = 50  # of each adapter and wording


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares of right choices, by words and with an encoder by meaning."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--prompt-encoder", type=Path)
    folder = parser.parse_args(arguments).prompt_encoder
    of_adapters = {name: texts for name, texts in examples().items() if name != BASE}
    indices: dict[str, Similarity] = {
        "TF-IDF": PromptSimilarity(of_adapters),
        "TF-IDF, base too": PromptSimilarity(examples()),
    }
    if folder is not None:
        encoder = SentenceEncoder(folder)
        indices["encoder"] = EncodedSimilarity(encoder, of_adapters)
        indices["encoder, base too"] = EncodedSimilarity(encoder, examples())
    columns = {name: _column(index) for name, index in indices.items()}
    labels = list(next(iter(columns.values())))
    rows = [(label, *(column[label] for column in columns.values())) for label in labels]
    show(table(("right", *columns), rows))


def _column(index: Similarity) -> dict[str, str]:
    asked = {
        "wordings of the examples": _of_adapters(held_out_prompts),
        "other wordings": _of_adapters(paraphrased_prompts),
        "of no adapter's kind, to the base": [
            (BASE, prompt) for prompts in foreign_prompts().values() for prompt in prompts
        ],
    }
    start, cells = time.process_time(), {}
    for label, prompts in asked.items():
        chosen = choices(index, [prompt for _, prompt in prompts])
        right = [
            answering(choice, index.none_below) == wanted
            for choice, (wanted, _) in zip(chosen, prompts, strict=True)
        ]
        cells[label] = f"{sum(right) / len(right):.1%} of {len(right)}"
    seconds = (time.process_time() - start) / sum(map(len, asked.values()))
    return cells | {"processor time per request": f"{1e3 * seconds:.1f} ms"}


def _of_adapters(draw: Callable[[str, int], list[str]]) -> list[tuple[str, str]]:
    return [(name, prompt) for name in experts.NAMES for prompt in draw(name, PROMPTS)]


if __name__ == "__main__":
    main()
