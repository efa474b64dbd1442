"""What the server answers. Fields that this version does not know are kept, not refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue


class Wire(BaseModel):
    """Frozen; unknown fields are attributes too."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Usage(Wire):
    """Token counts. A composed request counts its prompt and its answer once, not per row."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class RoutedAnswer(Wire):
    """What a router did in one answer.

    `weights`: the mean weight of each expert; where one row switches between them, the share of the
    tokens that each computed. `tokens`, if the composition says `"explain": true`: the weights of
    every token, or the expert that computed it.
    """

    weights: dict[str, float]
    tokens: tuple[str | dict[str, float], ...] = ()


class RoutingInfo(RoutedAnswer):
    """The mean over all answers, and each one of `answers` if there are more than one. `missing`
    are experts that a gate knows and that are gone."""

    answers: tuple[RoutedAnswer, ...] = ()
    missing: tuple[str, ...] = ()


class CompositionInfo(Wire):
    """What the server computed: the plan in normal form and how many rows of the batch it took.

    `routing` where it was a mixture; in a stream, the last chunk has it.
    """

    plan: dict[str, JsonValue]
    rows: int
    routing: RoutingInfo | None = None


class TopLogprob(Wire):
    token: str
    logprob: float


class TokenLogprob(TopLogprob):
    """One token of the answer; `logprob` is natural, before temperature."""

    top_logprobs: tuple[TopLogprob, ...] = ()


class ChatLogprobs(Wire):
    content: tuple[TokenLogprob, ...] | None = None


class CompletionLogprobs(Wire):
    """Four lists of the same length, one entry per token of the answer."""

    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float | None, ...] = ()
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None
    text_offset: tuple[int, ...] = ()


class ChatMessage(Wire):
    role: str
    content: str | None = None


class Delta(Wire):
    """What a chunk adds to the message."""

    role: str | None = None
    content: str | None = None


class ChatChoice(Wire):
    index: int
    message: ChatMessage
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class ChatChunkChoice(Wire):
    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None


class CompletionChoice(Wire):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: CompletionLogprobs | None = None


class ChatAlone(Wire):
    """What one model answers alone (`compare`), or its error in the server's words."""

    choices: tuple[ChatChoice, ...] = ()
    usage: Usage | None = None
    error: dict[str, JsonValue] | None = None

    @property
    def text(self) -> str:
        """The first choice's content; empty if it has none."""
        return (self.choices[0].message.content or "") if self.choices else ""


class CompletionAlone(Wire):
    """The same of a text completion."""

    choices: tuple[CompletionChoice, ...] = ()
    usage: Usage | None = None
    error: dict[str, JsonValue] | None = None

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text if self.choices else ""


class Answer(Wire):
    """What all answers and chunks share.

    `composition` is None for an ordinary request. `adapters` is which generations computed the
    answer: alias -> digest, None where none did. Of the chunks of a stream, only the first one and
    the one that carries the usage have them.
    """

    id: str
    model: str
    created: int
    usage: Usage | None = None
    composition: CompositionInfo | None = None
    adapters: dict[str, str] | None = None


class ChatCompletion(Answer):
    """`comparison`: what each expert answers alone, by its name, if `compare` asked for it."""

    choices: tuple[ChatChoice, ...]
    comparison: dict[str, ChatAlone] | None = None

    @property
    def text(self) -> str:
        """The first choice's content; empty if it has none (a tool call, say)."""
        return (self.choices[0].message.content or "") if self.choices else ""


class ChatChunk(Answer):
    choices: tuple[ChatChunkChoice, ...]

    @property
    def text(self) -> str:
        """What this chunk adds to the first choice; empty for the chunk that carries the usage."""
        return "".join(c.delta.content or "" for c in self.choices if c.index == 0)


class Completion(Answer):
    """`comparison` as in `ChatCompletion`."""

    choices: tuple[CompletionChoice, ...]
    comparison: dict[str, CompletionAlone] | None = None

    @property
    def text(self) -> str:
        """The text that this answer, or this chunk, adds to the first choice."""
        return "".join(c.text for c in self.choices if c.index == 0)


class Model(Wire):
    """A base model, an adapter or a stored composition."""

    id: str
    parent: str | None = None


class ModelList(Wire):
    data: tuple[Model, ...]


class CompositionChange(Wire):
    """One change of a stored composition.

    `version` counts within the name, from 1, and is what `if_match` means. `composition` is as it
    was put; None where it was deleted, or is `private`: it has prompts, which only its owner sees.
    `owner` and `actor` are told to the owner and to administrators.
    """

    name: str
    version: int
    action: str
    time: str
    composition: JsonValue = None
    private: bool = False
    owner: str | None = None
    actor: str | None = None
    origin: dict[str, JsonValue] = {}


class StoredComposition(CompositionChange):
    """What a name is now. It has a plan, or else the error that says why it no longer has one."""

    plan: dict[str, JsonValue] | None = None
    error: str | None = None


class StoredCompositionList(Wire):
    data: tuple[StoredComposition, ...]


class CompositionHistory(Wire):
    data: tuple[CompositionChange, ...]


class AdapterPolicy(Wire):
    """What may be done with an adapter. What is left out is allowed."""

    compositions: bool = True
    """It may be a member of a composition."""

    negative: bool = True
    """It may have a negative weight."""

    keys: tuple[str, ...] | None = None
    """API keys that may use it, as "sha256:" and the hash in hex; None: everybody."""


class AdapterProfile(Wire):
    """What an adapter is for. Routers that read the prompt compare it with these texts."""

    examples: tuple[str, ...] | None = None
    """Prompts that it is to answer."""

    description: str | None = None
    """What it is for, in a few words; counts where there are no examples."""


class AdapterReport(Wire):
    """What inspection found in the two files of an adapter."""

    digest: str
    rank: int
    scaling: tuple[float, ...] = ()
    modules: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    parameters: int = 0
    size_bytes: int = 0
    base_model: str | None = None
    warnings: tuple[str, ...] = ()


class AdapterVersion(Wire):
    """One change of an alias: what it stood for from then on, and who made the change.

    `number` counts within the alias, from 1, and is what `if_match` means. `digest` is None where
    the alias was deleted.
    """

    alias: str
    number: int
    action: str
    digest: str | None = None
    policy: AdapterPolicy
    profile: AdapterProfile = AdapterProfile()
    time: str
    actor: str
    origin: dict[str, JsonValue] = {}


class Adapter(AdapterVersion):
    """What an alias is now. `served` where new requests get this version; `error` says why not."""

    adapter: AdapterReport | None = None
    served: bool
    error: str | None = None


class AdapterList(Wire):
    """All adapters; `retiring` are the replaced ones that requests in flight still compute with."""

    data: tuple[Adapter, ...]
    retiring: tuple[str, ...] = ()


class AdapterHistory(Wire):
    data: tuple[AdapterVersion, ...]
