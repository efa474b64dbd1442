"""Models of the server's answers. Unknown fields are kept, not refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Wire(BaseModel):
    """Base of all models: frozen; unknown fields are attributes, too."""

    model_config = ConfigDict(extra="allow", frozen=True)


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
    """

    id: str
    model: str
    created: int
    usage: Usage | None = None
    composition: CompositionInfo | None = None
    adapters: dict[str, str] | None = None


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


class CompositionChange(Wire):
    """One change of a stored composition.

    version: counts the changes of the name from 1; `if_match` refers to it.
    composition: as stored; None if it was deleted, or is private and belongs to another key.
    private: the composition contains prompts, which only its owner may read.
    owner, actor: visible to the owner and to administrators.
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
    """Present state of a name: its plan, or the error why the composition has none any more."""

    plan: dict[str, JsonValue] | None = None
    error: str | None = None


class StoredCompositionList(Wire):
    data: tuple[StoredComposition, ...]


class CompositionHistory(Wire):
    data: tuple[CompositionChange, ...]


class AdapterPolicy(Wire):
    """Who may use an adapter, and how. By default everything is allowed.

    compositions: whether it may be a member of a composition.
    negative: whether it may have a negative weight.
    keys: API keys that may use it, each as "sha256:" and its hash in hex; None allows every key.
    """

    compositions: bool = True
    negative: bool = True
    keys: tuple[str, ...] | None = None


class AdapterProfile(Wire):
    """What an adapter is for; routers that read the prompt compare it with these texts.

    examples: prompts that the adapter should answer.
    description: what it is for, in a few words; used if there are no examples.
    """

    examples: tuple[str, ...] | None = None
    description: str | None = None


class AdapterReport(Wire):
    """What inspection read from the two files of an adapter."""

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
    """One change of an alias.

    number: counts the changes of the alias from 1; `if_match` refers to it.
    digest: content that the alias pointed at from then on; None if it was deleted.
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
    """Present state of an alias; `served`: new requests get this version; `error`: why not."""

    adapter: AdapterReport | None = None
    served: bool
    error: str | None = None


class AdapterList(Wire):
    """All adapters; `retiring`: replaced generations that requests in flight still use."""

    data: tuple[Adapter, ...]
    retiring: tuple[str, ...] = ()


class AdapterHistory(Wire):
    data: tuple[AdapterVersion, ...]
