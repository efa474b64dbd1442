"""Models of the server's answers. Unknown fields are kept, not refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue


class Wire(BaseModel):
    """Base of all models: frozen; unknown fields are attributes, too."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Usage(Wire):
    """Token counts. A composed request counts its prompt and answer once, not once per row."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class RoutedAnswer(Wire):
    """What a router did in one answer."""

    weights: dict[str, float]
    """Mean weight of each expert; if one row switches between experts, the share of the tokens
    that each computed."""

    tokens: tuple[str | dict[str, float], ...] = ()
    """With `"explain": true` in the composition: for each token the weights of the experts, or the
    expert that computed it."""


class RoutingInfo(RoutedAnswer):
    """The mean over all answers of a request."""

    answers: tuple[RoutedAnswer, ...] = ()
    """Each answer, if there are several."""

    missing: tuple[str, ...] = ()
    """Experts that a gate knows and the server no longer has."""


class CompositionInfo(Wire):
    """What the server computed."""

    plan: dict[str, JsonValue]
    """The plan in normal form."""

    rows: int
    """Rows of the batch that the request took."""

    routing: RoutingInfo | None = None
    """Of a mixture; in a stream, the last chunk carries it."""


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
        """Return the text of the first choice, empty if there is none."""
        return self.choices[0].text if self.choices else ""


class Answer(Wire):
    """Fields of all answers and chunks.

    In a stream, only the first chunk and the chunk with the usage carry `composition` and
    `adapters`.
    """

    id: str
    model: str
    created: int
    usage: Usage | None = None
    composition: CompositionInfo | None = None
    """None for an ordinary request."""

    adapters: dict[str, str] | None = None
    """Generations that computed the answer: alias -> digest. None without an adapter."""


class ChatCompletion(Answer):
    """Answer to a chat request."""

    choices: tuple[ChatChoice, ...]
    comparison: dict[str, ChatAlone] | None = None
    """With `compare`: each model's name -> its answer alone."""

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
    """One change of a stored composition."""

    name: str
    version: int
    """Counts the changes of the name from 1; `if_match` refers to it."""

    action: str
    time: str
    composition: JsonValue = None
    """As it was stored; None if it was deleted, or is private and belongs to another key."""

    private: bool = False
    """The composition contains prompts, which only its owner may read."""

    owner: str | None = None
    """Shown to the owner and to administrators, like `actor`."""

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
    """Who may use an adapter, and how. By default everything is allowed."""

    compositions: bool = True
    """Whether it may be a member of a composition."""

    negative: bool = True
    """Whether it may have a negative weight."""

    keys: tuple[str, ...] | None = None
    """API keys that may use it, each as "sha256:" and its hash in hex; None allows every key."""


class AdapterProfile(Wire):
    """What an adapter is for; routers that read the prompt compare it with these texts."""

    examples: tuple[str, ...] | None = None
    """Prompts that it should answer."""

    description: str | None = None
    """What it is for, in a few words; used if there are no examples."""


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
    """One change of an alias."""

    alias: str
    number: int
    """Counts the changes of the alias from 1; `if_match` refers to it."""

    action: str
    digest: str | None = None
    """Content that the alias pointed at from then on; None if it was deleted."""

    policy: AdapterPolicy
    profile: AdapterProfile = AdapterProfile()
    time: str
    actor: str
    origin: dict[str, JsonValue] = {}


class Adapter(AdapterVersion):
    """Present state of an alias."""

    adapter: AdapterReport | None = None
    served: bool
    """Whether new requests get this version; if not, `error` may say why."""

    error: str | None = None


class AdapterList(Wire):
    """All adapters."""

    data: tuple[Adapter, ...]
    retiring: tuple[str, ...] = ()
    """Replaced generations that requests in flight still use."""


class AdapterHistory(Wire):
    data: tuple[AdapterVersion, ...]
