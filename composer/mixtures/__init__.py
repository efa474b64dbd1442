"""Mixtures of experts with routers: specifications, priors and gate files.

How to add a router that weighs experts from token to token, say `margin`:

1. The request: `routers/margin.py`, a subclass of `RuleFields` with a field for each parameter and
   a `ROUTER` built by `build_rule`; one line in `WEIGHING` (`routers/weighing.py`). The schema of
   OpenAPI, votes, responses and the table of routers follow from the list.
2. The parameters: in `composer.engine_plan.MixtureParameters` one field for the share of the rule,
   one for each parameter, one entry of `RULES`, and the formula in the docstring.
3. The kernel: one class and one entry of `RULES` in `composer.tensors.mixture_rules`.
4. The oracle: one function and one entry of `RULES` in `composer.reference.mixture_oracle`, from
   the formula, sharing nothing with the kernel.
5. The test: one line in `ROUTERS` of `tests/composer/tensors/test_mixture_kernel.py`, where kernel
   and oracle are compared. `tests/composer/mixtures/test_router_table.py` checks that every table
   has every rule.

A router that only sets a `FixedPrior` needs step 1 alone, with a `build` of its own. Another kind
of prior is also a class in `PriorTerm` with its cases in `reads_text`, `resolved` and `_described`
(`specs`), in `route._prior` and in `vote._combined`. Only the routers of `rule._PRIOR` may be the
`prior` of a router that weighs from token to token.
"""
