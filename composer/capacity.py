"""Whether the rows of one composed request can ever run together, and how long they may answer.

Front end and scheduler both ask here, about the same figures: what the front end lets pass, the
scheduler never refuses. All of it is an upper bound of what the rows take, as if they shared
nothing with anybody.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from composer.errors import GroupTooLargeError, PromptTooLongError, UnknownModelError

_FIELD = "composition"
"""The field of the request that an error is about."""


def usable_blocks(blocks: int, watermark: float) -> int:
    """How many blocks of a pool requests can get: one is vLLM's null block, and the watermark, a
    share of the pool, must stay free at admission."""
    return blocks - 1 - int(watermark * blocks)


def blocks_of(tokens: int, block_tokens: Sequence[int]) -> int:
    """Blocks that hold `tokens` tokens of one row; `block_tokens` as in `ModelCapacity`."""
    return sum(-(-tokens // size) for size in block_tokens)


@dataclass(frozen=True, slots=True)
class ModelCapacity:
    """What one model has for the rows that it computes."""

    context_tokens: int
    """Longest prompt with its answer, per row."""
    adapters: int
    """Different adapters that run at once."""
    kv_blocks: int
    """Blocks of the KV cache that requests can get (`usable_blocks`)."""
    block_tokens: tuple[int, ...]
    """Tokens that a block holds, of each group of layers that has blocks of its own (sliding
    window beside full attention); mostly one."""


@dataclass(frozen=True, slots=True)
class RowNeed:
    """What one row asks of its model."""

    model: str | None
    """The auxiliary model that computes it; None is the base."""
    prompt_tokens: int
    adapters: tuple[Hashable, ...] = ()
    """What it runs under, by name or number; several where it switches between them."""
    label: str = "of the composition"
    """How errors call the member: "member ..."."""


@dataclass(frozen=True, slots=True)
class EngineCapacity:
    """What one replica of the engine holds."""

    rows: int
    """Rows that run at once, of all models together (`max_num_seqs`)."""
    models: Mapping[str | None, ModelCapacity]
    """None is the base model."""

    def longest_answer(self, rows: Sequence[RowNeed], asked: int) -> int:
        """The longest answer of at most `asked` tokens with which the rows fit, at least 1.

        Raises:
            GroupTooLargeError, PromptTooLongError, UnknownModelError: as `check`, of one token.
        """
        self.check(rows, 1)
        fit, unfit = 1, max(asked, 1) + 1
        while unfit - fit > 1:
            # What was asked for first: mostly it fits.
            middle = unfit - 1 if unfit == asked + 1 else (fit + unfit) // 2
            fit, unfit = (middle, unfit) if self._fits(rows, middle) else (fit, middle)
        return fit

    def check(self, rows: Sequence[RowNeed], answer: int) -> None:
        """Refuse rows that could never run together for an answer of so many tokens.

        The last token of an answer is never fed back, so it takes no place in the cache.

        Raises:
            UnknownModelError: there is no such auxiliary model.
            GroupTooLargeError: too many rows, adapters or KV cache blocks.
            PromptTooLongError: a prompt with the answer exceeds a context.
        """
        if len(rows) > self.rows:
            raise GroupTooLargeError(
                f"the composition needs {len(rows)} rows that run at once; the server runs at most "
                f"{self.rows}. Use fewer members, or start it with a larger --max-num-seqs.",
                param=_FIELD,
            )
        for name in dict.fromkeys(row.model for row in rows):
            if name not in self.models:
                raise UnknownModelError(str(name), [n for n in self.models if n is not None])
            own = [row for row in rows if row.model == name]
            _check_model(own, answer, self.models[name], f" of '{name}'" if name else "")

    def _fits(self, rows: Sequence[RowNeed], answer: int) -> bool:
        """`check`, of rows that fit with an answer of one token."""
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
        raise GroupTooLargeError(
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
        raise GroupTooLargeError(
            f"the rows need {arithmetic}, each rounded up, = {needed} blocks of the KV "
            f"cache{whose} at once; it has {model.kv_blocks}. Ask for fewer tokens or members, "
            "shorten the prompts, or start the server with a larger "
            f"{'--auxiliary-memory' if whose else '--kv-cache-memory-bytes'}.",
            param=_FIELD,
        )
