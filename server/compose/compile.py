"""From a plan to what the engine runs: members bound to models, adapters and tokens."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from adapters import Generation, model_of
from composer.capacity import RowNeed
from composer.engine_plan import EnginePlan, LoadedAdapter, MixtureParameters, Row, Switch
from composer.errors import CompositionSchemaError, UnsupportedError, quoted
from composer.fields import BASE
from composer.mixtures import specs
from composer.mixtures.route import engine_mixture
from composer.plan import Member, Plan
from composer.prompts import RequestPrompt
from server.compose.auto import Routing
from server.compose.gang_capacity import check_group
from server.compose.member_prompts import member_tokens
from server.engine.port import Body, Engine, Kind, Rendered


@dataclass(frozen=True, slots=True)
class Bound:
    """A plan that the engine can run. `names` are the models of its rows, or of the candidates of
    its one row; None is a row that leads and does not count."""

    compiled: EnginePlan
    names: tuple[str | None, ...]


class Binder:
    """Binds plans to this engine."""

    def __init__(
        self, engine: Engine, routing: Routing, templates: Mapping[str, str | None]
    ) -> None:
        """`templates`: auxiliary models, and the chat templates of those that have their own."""
        self._engine = engine
        self._routing = routing
        self._templates = templates

    def model_of(self, name: str) -> str | None:
        """The auxiliary model that computes a member; None is the base."""
        return name if name in self._templates else model_of(name)

    async def bind(
        self, kind: Kind, body: Body, plan: Plan, generations: Mapping[str, Generation]
    ) -> Bound:
        """Bind a plan whose mixture is settled, and see that its group can run.

        Raises:
            CompositionError: it cannot run.
            RefusedError: vLLM refuses the request.
        """
        rendered = await self._engine.open(kind, body)
        kind, body = rendered.kind, rendered.body
        ticket = uuid.uuid4().hex if plan.mixture is not None else None
        router = plan.mixture.router if plan.mixture is not None else None
        if isinstance(router, specs.GateSpec | specs.HandoverSpec):
            return await self._switch(kind, body, plan, router, generations, rendered, ticket)
        return await self._rows(kind, body, plan, generations, rendered, ticket)

    # ---- one row for each member

    async def _rows(
        self,
        kind: Kind,
        body: Body,
        plan: Plan,
        generations: Mapping[str, Generation],
        rendered: Rendered,
        ticket: str | None,
    ) -> Bound:
        request = max(rendered.prompts, key=len)
        if len(rendered.prompts) > 1 and not self._reads_request_only(kind, plan):
            raise UnsupportedError(
                f"the request has {len(rendered.prompts)} prompts, and a member reads a prompt "
                "of its own. Send the prompts one by one.",
                param="prompt",
            )
        mixed = engine_mixture(plan) if plan.mixture is not None else None
        rows, needs = [], []
        for member, weight in zip(plan.members, plan.weights, strict=True):
            model = self.model_of(member.model)
            template = self._templates.get(model) if model is not None else None
            prompt = await member_tokens(self._engine, kind, body, member, request, template)
            _check_comparable(member, prompt, mixed)
            adapter = _loaded(generations.get(member.model))
            rows.append(Row(weight, adapter, prompt, model))
            own = (adapter.name,) if adapter else ()
            length = len(request if prompt is None else prompt)
            needs.append(RowNeed(model, length, own, str(member)))
        explain = plan.mixture is not None and plan.mixture.explain
        compiled = EnginePlan.led(rows, plan.filters, mixed, ticket, explain)
        if len(compiled.rows) > len(rows):  # a row of the base model leads
            needs.append(RowNeed(None, len(request), (), BASE))
        check_group(needs, rendered.max_tokens, self._engine.capacities)
        order = EnginePlan.order(rows)
        return Bound(compiled, tuple(k if k is None else plan.members[k].model for k in order))

    def _reads_request_only(self, kind: Kind, plan: Plan) -> bool:
        """Whether all members read the very tokens of the request."""
        models = (self.model_of(member.model) for member in plan.members)
        own = kind is Kind.CHAT and any(self._templates.get(m) for m in models if m is not None)
        return not own and all(isinstance(m.prompt, RequestPrompt) for m in plan.members)

    # ---- one row that changes its adapter

    async def _switch(
        self,
        kind: Kind,
        body: Body,
        plan: Plan,
        router: specs.GateSpec | specs.HandoverSpec,
        generations: Mapping[str, Generation],
        rendered: Rendered,
        ticket: str | None,
    ) -> Bound:
        names = router.experts
        for name in names:
            if self.model_of(name) is not None or name in self._templates:
                raise UnsupportedError(
                    f"{quoted(name)} runs on an auxiliary model, and one row changes adapters of "
                    "the base model only. Leave it out, or use another router."
                )
        candidates = tuple(_loaded(generations.get(name)) for name in names)
        if isinstance(router, specs.HandoverSpec):
            triggers = [await self._token(at) for at in router.at]
            switch = Switch(candidates, triggers=tuple(dict.fromkeys(triggers)))
        else:
            one = self._routing.gates.get(router.name)
            switch = Switch(
                candidates,
                start=names.index(await self._routing.start(kind, body, router)),
                gate=str(one.path),
                classes=one.gate.rows(names),
                stickiness=router.stickiness,
            )
        slots = tuple(adapter.name for adapter in candidates if adapter is not None)
        longest = max(map(len, rendered.prompts))
        need = RowNeed(None, longest, slots, str(Member(names[switch.start])))
        check_group([need], rendered.max_tokens, self._engine.capacities)
        row = Row(1.0, candidates[switch.start])
        explain = plan.mixture is not None and plan.mixture.explain
        return Bound(EnginePlan((row,), (), None, switch, ticket, explain), names)

    async def _token(self, at: str | int) -> int:
        """The one token that `at` of a sequence router stands for."""
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
            parts = ", ".join(f"{id} ({self._engine.detokenize((id,))!r})" for id in tokens)
            raise CompositionSchemaError(
                f"'at' of the sequence router is {quoted(at)}, which is {len(tokens)} tokens: "
                f"{parts}. Give a text of one token, or one of these ids."
            )
        return tokens[0]


def _check_comparable(
    member: Member, prompt: tuple[int, ...] | None, mixed: MixtureParameters | None
) -> None:
    if mixed is not None and mixed.reads_prompt and prompt is not None:
        raise UnsupportedError(
            f"the posterior router compares how well the experts explain the prompt, and "
            f"{quoted(member.model)} reads it in a chat template of its own. Set the router's "
            '"prompt" to false, or leave it out of the experts.'
        )


def _loaded(generation: Generation | None) -> LoadedAdapter | None:
    """The adapter as the engine knows it; None for the base."""
    if generation is None:
        return None
    return LoadedAdapter(generation.engine_name, generation.number, str(generation.path))
