"""Refuse grammars under which no answer can begin, before the request enters the engine.

`{"$ref": "#"}` compiles to a grammar that accepts nothing. vLLM's sampler then finds every token
forbidden, and the request ends with a server error. Whether a grammar has a first byte does not
depend on the tokenizer, so it is checked with a vocabulary of single bytes, in less than a
millisecond.
"""

from __future__ import annotations

import json
import re
from functools import cache

import xgrammar
from vllm.sampling_params import SamplingParams
from vllm.v1.structured_output.backend_types import StructuredOutputOptions
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.structured_output.request import get_structured_output_key

_END = 256
_SOURCE_LOCATION = re.compile(r"^\[[\d:]+\] \S+\.cc:\d+: ")
"""Prefix of xgrammar's error messages."""

_CACHE_BYTES = 16 * 2**20
_CHECKED = (
    StructuredOutputOptions.JSON,
    StructuredOutputOptions.REGEX,
    StructuredOutputOptions.GRAMMAR,
)
"""Kinds that may accept nothing; the others always have a first byte."""


def _has_schemas(kind: StructuredOutputOptions, text: str) -> bool:
    """Return whether it is a structural tag with schemas, which names no tokens."""
    return kind is StructuredOutputOptions.STRUCTURAL_TAG and "structures" in json.loads(text)


class _ByteBackend(XgrammarBackend):
    """vLLM's compilation of grammars, for a vocabulary of single bytes."""

    def __post_init__(self) -> None:
        vocabulary = [bytes([value]) for value in range(_END)] + [b"</s>"]
        raw = xgrammar.VocabType.RAW
        info = xgrammar.TokenizerInfo(vocabulary, vocab_type=raw, stop_token_ids=[_END])
        self.compiler = xgrammar.GrammarCompiler(
            info, max_threads=1, cache_enabled=True, cache_limit_bytes=_CACHE_BYTES
        )
        self.disable_any_whitespace = False
        self.num_speculative_tokens = 0


@cache
def _backend() -> _ByteBackend:
    return _ByteBackend(vllm_config=None, tokenizer=None, vocab_size=_END + 1)


def check_grammar(params: SamplingParams) -> None:
    """Refuse a request whose grammar allows neither a first byte nor an empty answer.

    Raises:
        ValueError: names the kind of grammar and what is wrong with it.
    """
    constraint = params.structured_outputs
    if constraint is None or constraint._backend != "xgrammar":
        return
    kind, text = get_structured_output_key(constraint)
    if kind not in _CHECKED and not _has_schemas(kind, text):
        return
    backend = _backend()
    mask = backend.allocate_token_bitmask(1)
    try:
        grammar = backend.compile_grammar(kind, text)
    except RuntimeError as error:  # xgrammar's parser accepts it, its compiler does not
        reason = _SOURCE_LOCATION.sub("", str(error)).strip()
        raise ValueError(f"the {kind.name.lower()} of this request: {reason}") from error
    grammar.fill_bitmask(mask, 0)
    if not mask.any():
        raise ValueError(
            f"no answer fits the {kind.name.lower()} of this request: not even a first character "
            "is allowed. Look for a rule or a $ref that leads back to itself and to nothing else"
        )
