"""Models of explained answers (`explain`)."""

from __future__ import annotations

from clients.responses.wire_model import Wire


class BestToken(Wire):
    """One of the most likely tokens; `logprob` in nats."""

    id: int
    token: str
    logprob: float


class BaseView(Wire):
    """What the base alone thinks of a token.

    kl: how far the composition is from the base there, KL(p || p_base) in nats; None if it is
        infinite.
    rank: 1 for the base's most likely token.
    best: the base's most likely tokens.
    """

    logprob: float
    kl: float | None
    rank: int
    best: tuple[BestToken, ...]


class ExplainedToken(Wire):
    """A token of an answer; lists go by `Explanation.members`.

    logprob: under the composition, before temperature and penalties.
    best: the composition's most likely tokens.
    member_logprobs: under every member alone.
    contributions: of a sum, `w_k (l_k[y] - E_p[l_k])`: how much a member's term favours the token
        more than the composition's average token.
    responsibilities, weights: of a mixture, `pi_k p_k(y) / p(y)`, and `pi`.
    model: of a router that switches adapters, the one that computed the token.
    base: the base's view; None if the base is no member of a mixture.
    changed: whether the most likely token is another than the base's.
    """

    position: int
    id: int
    token: str
    logprob: float
    best: tuple[BestToken, ...]
    member_logprobs: tuple[float, ...] = ()
    contributions: tuple[float | None, ...] = ()
    responsibilities: tuple[float | None, ...] = ()
    weights: tuple[float | None, ...] = ()
    model: str | None = None
    base: BaseView | None = None
    changed: bool | None = None


class ExplanationSummary(Wire):
    """Means over the tokens of an answer.

    changed: share of the tokens where the base would have preferred another.
    influence: of a sum, each member's share of the absolute contributions.
    """

    tokens: int
    logprob: float | None
    changed: float | None = None
    kl: float | None = None
    contributions: tuple[float | None, ...] = ()
    responsibilities: tuple[float | None, ...] = ()
    influence: tuple[float, ...] = ()


class ExplainedAnswer(Wire):
    """The explanation of the choice `index`, or a part of it; the last part has the summary."""

    index: int
    tokens: tuple[ExplainedToken, ...]
    summary: ExplanationSummary | None = None


class Explanation(Wire):
    """What every member thought of the tokens of each answer.

    In a stream it comes in parts, and only the last names the `members`.
    """

    answers: tuple[ExplainedAnswer, ...]
    members: tuple[str, ...] = ()
