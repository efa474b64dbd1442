"""Models of generated answers and their chunks, and of the list of models."""

from __future__ import annotations

from pydantic import Field, JsonValue

from clients.responses.explanation_models import Explanation
from clients.responses.wire_model import Wire


class Usage(Wire):
    """Token counts. A composed request counts its prompt and answer once, not once per row."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class RoutedAnswer(Wire):
    """What a router did in one answer.

    weights: mean weight of each expert; if one row switches between experts, the share of the
        tokens that each computed.
    tokens: with `"explain": true` in the composition, the weights of the experts for each token, or
        the expert that computed it.
    """

    weights: dict[str, float]
    tokens: tuple[str | dict[str, float], ...] = ()


class RoutingInfo(RoutedAnswer):
    """The mean over all answers of a request.

    answers: each answer, if there are several.
    missing: experts that a gate knows and the server no longer has.
    familiarity: how like the examples of each expert the prompt is, if the base answers prompts
        that are like none: from 0 for nothing in common to about 1 for one of them.
    none_below: below which familiarity to every expert the base answers.
    """

    answers: tuple[RoutedAnswer, ...] = ()
    missing: tuple[str, ...] = ()
    familiarity: dict[str, float] = Field(default_factory=dict)
    none_below: float | None = None


class CompositionInfo(Wire):
    """What the server computed.

    plan: the composition in normal form.
    rows: rows of the batch that the request took.
    routing: of a mixture; in a stream, the last chunk carries it.
    """

    plan: dict[str, JsonValue]
    rows: int
    routing: RoutingInfo | None = None


class TopLogprob(Wire):
    token: str
    logprob: float


class TokenLogprob(TopLogprob):
    """One token of the answer; `logprob` is a natural logarithm, before temperature."""

    top_logprobs: tuple[TopLogprob, ...] = ()


class ChatLogprobs(Wire):
    content: tuple[TokenLogprob, ...] | None = None


class CompletionLogprobs(Wire):
    """Lists of the same length, with one entry per token of the answer."""

    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None
    text_offset: tuple[int, ...] = ()


class ChatMessage(Wire):
    role: str
    content: str | None = None


class Delta(Wire):
    """The part of the message that a chunk adds."""

    role: str | None = None
    content: str | None = None


class ChatChoice(Wire):
    """`token_ids`: of the answer, if the request has `return_token_ids`."""

    index: int
    message: ChatMessage
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None
    token_ids: tuple[int, ...] | None = None


class ChatChunkChoice(Wire):
    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class CompletionChoice(Wire):
    """`token_ids`, `prompt_token_ids`: if the request has `return_token_ids`."""

    index: int
    text: str
    finish_reason: str | None = None
    logprobs: CompletionLogprobs | None = None
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None


class ChatAlone(Wire):
    """Answer of one model of a composition alone (`compare`), or the error object."""

    choices: tuple[ChatChoice, ...] = ()
    usage: Usage | None = None
    error: dict[str, JsonValue] | None = None

    @property
    def text(self) -> str:
        """Return the content of the first choice, empty if it has none."""
        return (self.choices[0].message.content or "") if self.choices else ""


class CompletionAlone(Wire):
    """`ChatAlone` of a text completion."""

    choices: tuple[CompletionChoice, ...] = ()
    usage: Usage | None = None
    error: dict[str, JsonValue] | None = None

    @property
    def text(self) -> str:
        """Return the text of the first choice; empty without choices."""
        return self.choices[0].text if self.choices else ""


class Answer(Wire):
    """Fields of all answers and chunks.

    In a stream, only the first chunk and the chunk with the usage carry `composition` and
    `adapters`.

    composition: None for an ordinary request.
    adapters: generations that computed the answer, alias -> digest; None without an adapter.
    explanation: with `explain`; in a stream it comes in parts.
    """

    id: str
    model: str
    created: int
    usage: Usage | None = None
    composition: CompositionInfo | None = None
    adapters: dict[str, str] | None = None
    explanation: Explanation | None = None


class ChatCompletion(Answer):
    """Answer to a chat request.

    comparison: with `compare`, each model -> its answer alone.
    prompt_token_ids: if the request has `return_token_ids`.
    """

    choices: tuple[ChatChoice, ...]
    comparison: dict[str, ChatAlone] | None = None
    prompt_token_ids: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """Return the content of the first choice, empty if it has none (such as a tool call)."""
        return (self.choices[0].message.content or "") if self.choices else ""


class ChatChunk(Answer):
    choices: tuple[ChatChunkChoice, ...]

    @property
    def text(self) -> str:
        """Return what this chunk adds to the first choice; the chunk with the usage adds none."""
        return "".join(c.delta.content or "" for c in self.choices if c.index == 0)


class Completion(Answer):
    """Answer to a request for a completion, or a chunk of one."""

    choices: tuple[CompletionChoice, ...]
    comparison: dict[str, CompletionAlone] | None = None

    @property
    def text(self) -> str:
        """Return the text of the first choice, or what this chunk adds to it."""
        return "".join(c.text for c in self.choices if c.index == 0)


class Model(Wire):
    """A base model, an adapter or a stored composition."""

    id: str
    parent: str | None = None


class ModelList(Wire):
    data: tuple[Model, ...]
