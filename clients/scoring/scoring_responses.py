"""Answers to `score` and `fit`. Log-probabilities are natural logarithms."""

from __future__ import annotations

from pydantic import Field, JsonValue

from clients.responses import StoredComposition, Wire


class ScoredTokens(Wire):
    """Log-probabilities of the tokens of a completion.

    logprob: their sum; None if the item has been scored under several compositions.
    impossible: whether a filter drops one of the tokens, which then counts as -9999.
    """

    logprob: float | None = None
    token_logprobs: tuple[float, ...] = ()
    impossible: bool = False


class ComposedScore(ScoredTokens):
    """The score of a completion under one of several compositions.

    divergence: with `divergences`, KL(p || q) in nats, where p is the first composition and q this
        one; its mean over the tokens.
    token_divergences: that in front of each token.
    """

    divergence: float | None = None
    token_divergences: tuple[float, ...] = ()


class MemberScore(ScoredTokens):
    """The score of a completion under one member alone."""

    model: str


class ScoredItem(ScoredTokens):
    """The score of one completion.

    tokens: text of each token.
    formula: of the composition that scored it, which a router may choose for each item.
    experts: with a router that switches adapters, the expert that gave each token its probability.
    members: with `members`, the scores under each member.
    compositions: with `compositions`, the scores under each of them, in the order of the request.
    """

    index: int
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    formula: str | None = None
    experts: tuple[str, ...] = ()
    members: tuple[MemberScore, ...] = ()
    compositions: tuple[ComposedScore, ...] = ()


class ScoreUsage(Wire):
    """Tokens before the completions, and of the completions."""

    prompt_tokens: int
    scored_tokens: int


class ScoredItems(Wire):
    """Scores in the order of the items.

    plan: the composition in normal form.
    plans: with `compositions`, that of each.
    adapters: digests of the adapters that scored the items, by alias.
    """

    data: tuple[ScoredItem, ...]
    usage: ScoreUsage
    plan: dict[str, JsonValue] | None = None
    plans: tuple[dict[str, JsonValue], ...] = ()
    adapters: dict[str, str] = Field(default_factory=dict)


class FittedWeight(Wire):
    """The value of a free name, or the weight of an expert.

    standard_error: None if the examples do not determine the value.
    """

    value: float
    standard_error: float | None = None


class FitLikelihood(Wire):
    """Log-likelihoods of examples in nats per token: of the start, the fit, and each member."""

    start: float
    fit: float
    members: dict[str, float]


class FitExamples(Wire):
    learned: int
    held_out: int


class FittedComposition(Wire):
    """What `fit` has found.

    formula: the fitted sum; None for a mixture.
    judged_on: which examples the log-likelihoods are of.
    tokens: how many tokens the examples have that were learned from.
    request: fields of a request to the fitted composition.
    stored: what has been stored under the name that was given; None if nothing has.
    adapters: digests of the adapters that the weights belong to, by alias.
    """

    formula: str | None = None
    weights: dict[str, FittedWeight]
    converged: bool
    passes: int
    log_likelihood_per_token: FitLikelihood
    judged_on: str
    examples: FitExamples
    tokens: int
    warnings: tuple[str, ...] = ()
    request: dict[str, JsonValue] = Field(default_factory=dict)
    stored: StoredComposition | None = None
    adapters: dict[str, str] = Field(default_factory=dict)
