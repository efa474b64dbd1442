"""The gates of this server: files of the command line, and which of their adapters are served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from composer.errors import quoted
from composer.mixtures import specs
from composer.mixtures.gate_file import Gate, GateError, fingerprint, load_gate
from composer.mixtures.specs import Missing
from composer.plan import Plan


@dataclass(frozen=True, slots=True)
class LoadedGate:
    """A gate of the command line."""

    name: str
    path: Path
    """Absolute: the engine reads the file as well."""

    gate: Gate


class Gates:
    """All of them, by name."""

    def __init__(self, gates: Iterable[LoadedGate] = ()) -> None:
        self._gates = {one.name: one for one in gates}

    @property
    def classes(self) -> frozenset[str]:
        """What gates know by name, served or not."""
        return frozenset(name for one in self._gates.values() for name in one.gate.classes)

    def get(self, name: str | None) -> LoadedGate:
        """The gate called `name`, or the only one. Raises `GateError` where there is none."""
        if name is None and len(self._gates) == 1:
            return next(iter(self._gates.values()))
        if name in self._gates:
            return self._gates[name]
        if not self._gates:
            raise GateError("this server has no gate. Start it with --router NAME=FILE.")
        names = ", ".join(map(quoted, sorted(self._gates)))
        which = "there are several" if name is None else f"none is called {quoted(name)}"
        raise GateError(f"the router names a gate, and {which}. Give 'name' one of: {names}.")

    def settle(
        self, plan: Plan, router: specs.GateSpec, served: Mapping[str, str | None]
    ) -> tuple[Plan, tuple[str, ...]]:
        """The plan without the experts that this gate cannot choose any more, and their names.

        Args:
            plan: a switch by a gate.
            router: its router.
            served: digest of the adapters that are served, by alias.

        Raises:
            GateError: there is no such gate, it has no class for an expert, or an expert is gone
                and the request does not want the others instead.
        """
        one = self.get(router.name)
        one.gate.rows(router.experts)
        missing = frozenset(one.gate.missing(served))
        gone = tuple(name for name in router.experts if name in missing)
        if not gone:
            return plan, ()
        names = ", ".join(map(quoted, gone))
        if router.missing is Missing.ERROR:
            raise GateError(
                f"the gate {quoted(one.name)} was trained for adapters that are not served any "
                f"more, or were replaced: {names}. Train it again, publish them as they were, or "
                'set "missing": "remaining" to have it choose among the others.'
            )
        left = tuple(name for name in router.experts if name not in missing)
        if not left:
            raise GateError(
                f"the gate {quoted(one.name)} has nothing left to choose from: {names} are not "
                "served any more, or were replaced. Train it again, or publish them as they were."
            )
        start = None if router.start in gone else router.start
        members = tuple(member for member in plan.members if member.model not in missing)
        settled = replace(
            plan,
            members=members,
            weights=(1 / len(members),) * len(members),
            mixture=plan.mixture
            and replace(plan.mixture, router=replace(router, experts=left, start=start)),
        )
        return settled, gone


def load_gates(given: Sequence[tuple[str, Path]], base: Path) -> tuple[LoadedGate, ...]:
    """The gates of the command line.

    Raises:
        GateError: one cannot be read, or was trained for another base model.
        ValueError: a name is given twice.
    """
    if not given:
        return ()
    names = [name for name, _ in given]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--router gives {twice} twice. Give each gate its own name.")
    found = fingerprint(base)
    gates = []
    for name, path in given:
        gate = load_gate(path)
        try:
            gate.check_base(found)
        except GateError as error:
            raise GateError(f"--router {name}={path}: {error.message}") from None
        gates.append(LoadedGate(name, path.resolve(), gate))
    return tuple(gates)
