"""Judges of texts: VADER, a classifier that learns from human-rated sentences, and perplexity.

The sentences are those of Hutto and Gilbert 2014 ("VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text"), each rated by 20 people from -4 to 4. The adapters
`positive` and `negative` have read those with a strong rating; the classifier learns from those
with a weaker one, and is tested on strong ones that were held out from the adapters. It is logistic
regression on hidden states of the base model. `vaderSentiment` comes with `make setup-dev`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from experts.base_model import base_model
from experts.texts import corpus
from experts.texts.sentiment import STRONG, rated_sentences

LAYERS = 15
"""The hidden state behind the fifteenth of thirty layers, averaged over the tokens of a text."""

WEAKEST = 0.5  # absolute rating
TRAINING, HELD_OUT = 1000, 300  # sentences; held out: of each sign
RIDGE = 0.01
BATCH = 48


@dataclass(frozen=True, slots=True)
class Text:
    """A sampled text: the token ids of its prompt and of what follows, and the words to judge."""

    prompt: tuple[int, ...]
    tokens: Sequence[int]
    words: str


def vader(texts: Sequence[Text]) -> list[float]:
    """Return VADER's compound score of each text, from -1 to 1."""
    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text.words)["compound"]) for text in texts]


class Fluency:
    """Perplexity under SmolLM2 alone, computed by transformers."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(base_model(), dtype=torch.bfloat16)
        self._model = model.eval()

    @torch.inference_mode()
    def perplexity(self, texts: Sequence[Text]) -> float:
        """Return `exp` of the mean negative log-likelihood over the tokens behind the prompts."""
        nats, count = 0.0, 0
        rows = [[*text.prompt, *text.tokens] for text in texts]
        for batch, ids in _batches(rows):
            logits = self._model(input_ids=ids).logits[:, :-1].float()  # [B, T - 1, V]
            scores = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # [B, T - 1]
            for i, score in zip(batch, scores, strict=True):
                nats -= float(score[len(texts[i].prompt) - 1 : len(rows[i]) - 1].sum())
                count += len(texts[i].tokens)
        return math.exp(nats / count)


class Classifier:
    """Tells positive texts from negative ones; `accuracy` is that on held-out sentences."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        base = base_model()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self._model: Any = AutoModel.from_pretrained(base, dtype=torch.bfloat16).eval()
        self._model.layers = self._model.layers[: LAYERS + 1]
        trained = training_sentences()
        features = self._features([text for text, _ in trained])
        self._center, self._scale = features.mean(0), features.std(0) + 1e-6
        labels = torch.tensor([float(is_positive) for _, is_positive in trained])
        self._weight, self._bias = _fit((features - self._center) / self._scale, labels)
        tested = held_out_sentences()
        words = [text for text, _ in tested]
        self.accuracy = _agreement(tested, self._is_positive(words))
        scores = vader([Text((), (), text) for text in words])
        self.vader_accuracy = _agreement(tested, [score > 0 for score in scores])

    def positive(self, texts: Sequence[Text]) -> float:
        """Return the share of texts that are positive."""
        return sum(self._is_positive([text.words for text in texts])) / len(texts)

    def _is_positive(self, texts: Sequence[str]) -> list[bool]:
        features = (self._features(texts) - self._center) / self._scale
        return [bool(logit > 0) for logit in features @ self._weight + self._bias]

    @torch.inference_mode()
    def _features(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the mean hidden state of each text, `[N, H]` float32."""
        end = self._tokenizer.eos_token_id
        rows = [self._tokenizer(text)["input_ids"] or [end] for text in texts]
        features = [torch.empty(0)] * len(rows)
        for batch, ids in _batches(rows):
            # [B, T, H]
            states = self._model(input_ids=ids, output_hidden_states=True).hidden_states[LAYERS]
            for i, state in zip(batch, states, strict=True):
                features[i] = state[: len(rows[i])].float().mean(0)
        return torch.stack(features)


Rated = tuple[str, bool]
"""A sentence, and whether people rate it positive."""


def training_sentences() -> list[Rated]:
    """Return sentences that the adapters have not read, with ratings below theirs."""
    weaker = [
        (text, rating > 0) for rating, text in rated_sentences() if WEAKEST <= abs(rating) < STRONG
    ]
    return random.Random("classifier").sample(weaker, TRAINING)


def held_out_sentences() -> list[Rated]:
    """Return sentences with strong ratings that the adapters have not read."""
    return [
        (example.text, name == "positive")
        for name in ("positive", "negative")
        for example in corpus.held_out(name, HELD_OUT)
    ]


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield indices of rows of similar length, and the rows as token ids `[B, T]`.

    What pads a row stands after it, where a causal model's states of its tokens do not see it.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        width = len(rows[batch[-1]])
        yield batch, torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in batch])


def _fit(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight `[H]` and bias of a logistic regression with a ridge."""
    weight = torch.zeros(features.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features @ weight + bias
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        value = value + RIDGE * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _agreement(rated: Sequence[Rated], positive: Sequence[bool]) -> float:
    pairs = zip(rated, positive, strict=True)
    return sum(is_positive == judged for (_, is_positive), judged in pairs) / len(rated)
