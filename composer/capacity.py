"""Whether the rows of one composed request can ever run together, and how long an answer may be.

Front end and scheduler both call this with the same figures, so the scheduler never refuses a
request that the front end has accepted. Needs are upper bounds: they assume that rows share no
blocks with each other or with other requests.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from composer.errors import GangTooLargeError, PromptTooLongError, UnknownModelError

_FIELD = "composition"
"""Field of the request that errors refer to."""


def usable_blocks(blocks: int, watermark: float) -> int:
    """Return how many blocks of a pool requests can get: one is vLLM's null block, and the
    watermark, a share of the pool, must stay free at admission."""
    return blocks - 1 - int(watermark * blocks)


def blocks_of(tokens: int, block_tokens: Sequence[int]) -> int:
    """Return how many blocks hold `tokens` tokens of one row; `block_tokens` as in
    `ModelCapacity`."""
    return sum(-(-tokens // size) for size in block_tokens)


@dataclass(frozen=True, slots=True)
class ModelCapacity:
    """What one model offers the rows that it computes."""

    context_tokens: int
    """Maximum length of a prompt with its answer, per row."""
    adapters: int
    """Maximum number of different adapters that run at once."""
    kv_blocks: int
    """Blocks of the KV cache that requests can get (`usable_blocks`)."""
    block_tokens: tuple[int, ...]
    """Tokens per block, for each group of layers with its own blocks (such as sliding window beside
    full attention); usually one group."""


@dataclass(frozen=True, slots=True)
class RowNeed:
    """What one row needs of its model."""

    model: str | None
    """The auxiliary model that computes the row; None is the base."""
    prompt_tokens: int
    adapters: tuple[Hashable, ...] = ()
    """Its adapters, by name or id; several if the row switches between them."""
    label: str = "of the composition"
    """Name of the member in error messages, after "member"."""


@dataclass(frozen=True, slots=True)
class EngineCapacity:
    """What one replica of the engine offers."""

    rows: int
    """Maximum number of rows that run at once, on all models together (`max_num_seqs`)."""
    models: Mapping[str | None, ModelCapacity]
    """By name; None is the base model."""

    def longest_answer(self, rows: Sequence[RowNeed], asked: int) -> int:
        """Return the longest answer, from 1 to `asked` tokens, with which the rows fit.

        Raises:
            GangTooLargeError, PromptTooLongError, UnknownModelError: as `check` for one token.
        """
        self.check(rows, 1)
        fit, unfit = 1, max(asked, 1) + 1
        while unfit - fit > 1:
            # Try the requested length first: it usually fits.
            middle = unfit - 1 if unfit == asked + 1 else (fit + unfit) // 2
            fit, unfit = (middle, unfit) if self._fits(rows, middle) else (fit, middle)
        return fit

    def check(self, rows: Sequence[RowNeed], answer: int) -> None:
        """Refuse rows that could never run together for an answer of `answer` tokens.

        The last token of an answer is never fed back, so the cache need not hold it.

        Raises:
            UnknownModelError: an auxiliary model does not exist.
            GangTooLargeError: the rows need too many rows, adapters or KV cache blocks.
            PromptTooLongError: a prompt with its answer exceeds the context of its model.
        """
        if len(rows) > self.rows:
            raise GangTooLargeError(
                f"the composition needs {len(rows)} rows that run at once; the server runs at most "
                f"{self.rows}. Use fewer members, or start it with a larger --max-num-seqs.",
                param=_FIELD,
            )
        for name in dict.fromkeys(row.model for row in rows):
            if name not in self.models:
                raise UnknownModelError(str(name), [n for n in self.models if n is not None])
            on_model = [row for row in rows if row.model == name]
            _check_model(on_model, answer, self.models[name], f" of '{name}'" if name else "")

    def _fits(self, rows: Sequence[RowNeed], answer: int) -> bool:
        """Return whether rows that fit with one token also fit with `answer` tokens."""
        for name, model in self.models.items():
            prompts = [row.prompt_tokens for row in rows if row.model == name]
            if prompts and max(prompts) + answer > model.context_tokens:
                return False
            if _blocks(prompts, answer, model) > model.kv_blocks:
                return False
        return True


def _blocks(prompts: Sequence[int], answer: int, model: ModelCapacity) -> int:
    return sum(blocks_of(tokens + answer - 1, model.block_tokens) for tokens in prompts)


def _check_model(rows: Sequence[RowNeed], answer: int, model: ModelCapacity, whose: str) -> None:
    for row in rows:
        tokens = row.prompt_tokens
        if tokens + answer > model.context_tokens:
            raise PromptTooLongError(
                f"member {row.label} reads {tokens} tokens; with {answer} to generate that is "
                f"{tokens + answer}, and the context{whose} holds {model.context_tokens}. "
                "Shorten its prompt or ask for fewer tokens.",
                param=_FIELD,
            )
    adapters = len({adapter for row in rows for adapter in row.adapters})
    if adapters > model.adapters:
        raise GangTooLargeError(
            f"the composition uses {adapters} adapters{whose} at once; the server holds "
            f"{model.adapters}. Use fewer, or start it with a larger --max-loras.",
            param=_FIELD,
        )
    prompts = [row.prompt_tokens for row in rows]
    needed = _blocks(prompts, answer, model)
    if needed > model.kv_blocks:
        arithmetic = " + ".join(
            f"({tokens} + {answer} - 1)/{size}" for size in model.block_tokens for tokens in prompts
        )
        raise GangTooLargeError(
            f"the rows need {arithmetic}, each rounded up, = {needed} blocks of the KV "
            f"cache{whose} at once; it has {model.kv_blocks}. Ask for fewer tokens or members, "
            "shorten the prompts, or start the server with a larger "
            f"{'--auxiliary-memory' if whose else '--kv-cache-memory-bytes'}.",
            param=_FIELD,
        )
