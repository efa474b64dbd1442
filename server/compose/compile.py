"""From a plan to what the engine runs: members bound to models, adapters and token ids."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from adapters import Generation, model_of
from composer.capacity import RowNeed
from composer.engine_plan import (
    EnginePlan,
    Explaining,
    LoadedAdapter,
    MixtureParameters,
    Row,
    Switch,
)
from composer.errors import CompositionSchemaError, UnsupportedError, quoted
from composer.fields import BASE
from composer.mixtures import specs
from composer.mixtures.route import engine_mixture
from composer.plan import Member, Plan
from composer.prompts import RequestPrompt
from server.compose.gang_capacity import check_gang
from server.compose.member_prompts import member_tokens
from server.compose.routing.auto import Routing
from server.engine.port import Body, Engine, Kind, RenderedRequest
from server.engine.render_cache import RenderCache


class Explain(Enum):
    """Whose view of every token of an answer is explained."""

    MEMBERS = auto()
    """Each member's."""

    WITH_BASE = auto()
    """Also the base's, even if it is no member of a sum."""


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A plan that the engine can run.

    engine_plan: the compiled plan.
    models: the model of each row, or of each candidate of a switch; None marks an added
        zero-weight leader row.
    render_cache: the rendered prompts of the request.
    prompts: how many these are.
    """

    engine_plan: EnginePlan
    models: tuple[str | None, ...]
    render_cache: RenderCache
    prompts: int = 1


class Binder:
    """Binds plans to the models and adapters of this engine."""

    def __init__(
        self, engine: Engine, routing: Routing, templates: Mapping[str, str | None]
    ) -> None:
        """`templates`: chat template of each auxiliary model; None where it has none of its own."""
        self._engine = engine
        self._routing = routing
        self._templates = templates

    def auxiliary_model_of(self, name: str) -> str | None:
        """Return the auxiliary model that computes a member; None for the base model."""
        return name if name in self._templates else model_of(name)

    async def bind(
        self,
        kind: Kind,
        body: Body,
        plan: Plan,
        generations: Mapping[str, Generation],
        *,
        explain: Explain | None = None,
    ) -> BoundPlan:
        """Bind a settled plan, and check that its gang fits the engine.

        Args:
            kind: the route of the request.
            body: the request for vLLM.
            plan: a plan that `Routing.settle` returned.
            generations: leased adapter generations, by alias.
            explain: whether, and how, every token of the answer is to be explained.

        Raises:
            CompositionError: the plan cannot run.
            RefusedError: vLLM refuses the request.
        """
        request = await self._engine.render(kind, body)
        router = plan.mixture.router if plan.mixture is not None else None
        if isinstance(router, specs.GateSpec | specs.HandoverSpec):
            bound = await self._bind_switch(request, plan, router, generations)
        else:
            bound = await self._bind_rows(
                request, plan, generations, compares=explain is Explain.WITH_BASE
            )
        bound = replace(bound, prompts=len(request.prompts))
        return bound if explain is None else _explained(bound, explain)

    # ---- one row for each member

    async def _bind_rows(
        self,
        request: RenderedRequest,
        plan: Plan,
        generations: Mapping[str, Generation],
        *,
        compares: bool,
    ) -> BoundPlan:
        """With `compares`, a sum has a row of the base to be compared with."""
        tokens = max(request.prompts, key=len)
        if len(request.prompts) > 1 and not self._all_read_request(request.kind, plan):
            raise UnsupportedError(
                f"the request has {len(request.prompts)} prompts, and a member reads a prompt "
                "of its own. Send the prompts one by one.",
                param="prompt",
            )
        mixture = engine_mixture(plan) if plan.mixture is not None else None
        rows, needs = [], []
        for member, weight in zip(plan.members, plan.weights, strict=True):
            model = self.auxiliary_model_of(member.model)
            template = self._templates.get(model) if model is not None else None
            prompt = await member_tokens(self._engine, request, member, tokens, template)
            _check_comparable(member, prompt, mixture)
            _check_scorable(request, member, prompt)
            adapter = _loaded(generations.get(member.model))
            rows.append(Row(weight, adapter, prompt, model))
            length = len(tokens if prompt is None else prompt)
            needs.append(RowNeed(model, length, (adapter.name,) if adapter else (), str(member)))
        if compares and mixture is None and not any(map(_is_base, rows)):
            rows.append(Row(0.0))
            needs.append(RowNeed(None, len(tokens), (), BASE))
        report = (_report_id(plan), _explains(plan))
        engine_plan = EnginePlan.led(rows, plan.filters, mixture, *report, plan.log_softmax)
        if len(engine_plan.rows) > len(rows):  # a row of the base model was added to lead
            needs.append(RowNeed(None, len(tokens), (), BASE))
        check_gang(needs, request.max_tokens, self._engine.capacities)
        order = EnginePlan.order(rows)
        members = dict(enumerate(member.model for member in plan.members))
        models = tuple(None if k is None else members.get(k) for k in order)
        return BoundPlan(engine_plan, models, request.cache)

    def _all_read_request(self, kind: Kind, plan: Plan) -> bool:
        """Return whether all members read the very tokens of the request."""
        models = (self.auxiliary_model_of(member.model) for member in plan.members)
        has_template = any(self._templates.get(m) for m in models if m is not None)
        if kind is Kind.CHAT and has_template:
            return False
        return all(isinstance(m.prompt, RequestPrompt) for m in plan.members)

    # ---- one row that switches its adapter

    async def _bind_switch(
        self,
        request: RenderedRequest,
        plan: Plan,
        router: specs.GateSpec | specs.HandoverSpec,
        generations: Mapping[str, Generation],
    ) -> BoundPlan:
        names = router.experts
        for name in names:
            if self.auxiliary_model_of(name) is not None:
                raise UnsupportedError(
                    f"{quoted(name)} runs on an auxiliary model, and one row changes adapters of "
                    "the base model only. Leave it out, or use another router."
                )
        candidates = tuple(_loaded(generations.get(name)) for name in names)
        if isinstance(router, specs.HandoverSpec):
            triggers = [await self._trigger(at) for at in router.at]
            switch = Switch(candidates, triggers=tuple(dict.fromkeys(triggers)))
        else:
            loaded = self._routing.gates.get(router.name)
            start = await self._routing.start_expert(request.kind, request.body, router)
            switch = Switch(
                candidates,
                start=names.index(start),
                gate=str(loaded.path),
                classes=loaded.gate.rows(names),
                stickiness=router.stickiness,
            )
        slots = tuple(adapter.name for adapter in candidates if adapter is not None)
        longest = max(map(len, request.prompts))
        need = RowNeed(None, longest, slots, str(Member(names[switch.start])))
        check_gang([need], request.max_tokens, self._engine.capacities)
        row = Row(1.0, candidates[switch.start])
        engine_plan = EnginePlan((row,), (), None, switch, _report_id(plan), _explains(plan))
        return BoundPlan(engine_plan, names, request.cache)

    async def _trigger(self, at: str | int) -> int:
        """Return the token id that an entry of a handover's `at` stands for."""
        if isinstance(at, int):
            try:
                self._engine.check_tokens((at,))
            except ValueError as error:
                raise CompositionSchemaError(
                    f"'at' of the sequence router: {error}. Give ids of the base's tokenizer."
                ) from error
            return at
        body = {"prompt": at, "add_special_tokens": False}
        tokens = await self._engine.tokenize(Kind.COMPLETION, body)
        if len(tokens) != 1:
            ids = ", ".join(f"{id} ({self._engine.detokenize((id,))!r})" for id in tokens)
            raise CompositionSchemaError(
                f"'at' of the sequence router is {quoted(at)}, which is {len(tokens)} tokens: "
                f"{ids}. Give a text of one token, or one of these ids."
            )
        return tokens[0]


def _check_comparable(
    member: Member, prompt: tuple[int, ...] | None, mixture: MixtureParameters | None
) -> None:
    if mixture is not None and mixture.reads_prompt and prompt is not None:
        raise UnsupportedError(
            f"the posterior router compares how well the experts explain the prompt, and "
            f"{quoted(member.model)} reads it in a chat template of its own. Set the router's "
            '"prompt" to false, or leave it out of the experts.'
        )


def _check_scorable(
    request: RenderedRequest, member: Member, prompt: tuple[int, ...] | None
) -> None:
    if request.scoring_field is not None and prompt is not None:
        raise UnsupportedError(
            f"{quoted(request.scoring_field)} asks for logprobs of the request's prompt, and "
            f"{quoted(member.model)} reads a prompt of its own. Leave it out, or let all members "
            "read the same prompt.",
            param=request.scoring_field,
        )


def _is_base(row: Row) -> bool:
    """Return whether a row computes what the base alone would answer."""
    return row.adapter is None and row.model is None and row.prompt_token_ids is None


def _explained(bound: BoundPlan, explain: Explain) -> BoundPlan:
    """Return a plan whose answer is explained, compared with the base where it is a row."""
    plan = bound.engine_plan
    base = None
    if plan.switch is None and explain is Explain.WITH_BASE:
        base = next((k for k, row in enumerate(plan.rows) if _is_base(row)), None)
    explanation = Explaining(uuid.uuid4().hex, base)
    return replace(bound, engine_plan=replace(plan, explanation=explanation))


def _report_id(plan: Plan) -> str | None:
    """Return a new id under which the engine reports the routing; None for a sum."""
    return uuid.uuid4().hex if plan.mixture is not None else None


def _explains(plan: Plan) -> bool:
    return plan.mixture is not None and plan.mixture.explain


def _loaded(generation: Generation | None) -> LoadedAdapter | None:
    """Return the adapter as the engine knows it; None for the base model."""
    if generation is None:
        return None
    return LoadedAdapter(generation.engine_name, generation.number, str(generation.path))
