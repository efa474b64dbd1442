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
    """A gate of the command line. `path` is absolute, because the engine reads the file as well."""

    name: str
    path: Path
    gate: Gate


class Gates:
    """All gates, by name."""

    def __init__(self, gates: Iterable[LoadedGate] = ()) -> None:
        self._gates = {loaded.name: loaded for loaded in gates}

    @property
    def classes(self) -> frozenset[str]:
        """Every name that a gate can choose, served or not."""
        return frozenset(name for loaded in self._gates.values() for name in loaded.gate.classes)

    def get(self, name: str | None) -> LoadedGate:
        """Return the gate called `name`; None stands for the only one.

        Raises:
            GateError: there is no such gate.
        """
        if name is None and len(self._gates) == 1:
            return next(iter(self._gates.values()))
        if name in self._gates:
            return self._gates[name]
        if not self._gates:
            raise GateError("this server has no gate. Start it with --router NAME=FILE.")
        names = ", ".join(map(quoted, sorted(self._gates)))
        problem = "there are several" if name is None else f"none is called {quoted(name)}"
        raise GateError(f"the router names a gate, and {problem}. Give 'name' one of: {names}.")

    def settle(
        self, plan: Plan, router: specs.GateSpec, served: Mapping[str, str | None]
    ) -> tuple[Plan, tuple[str, ...]]:
        """Return the plan without the experts that its gate cannot choose now, and their names.

        Args:
            plan: a switch by a gate.
            router: the router of the plan.
            served: digest of each adapter that is served, by alias.

        Raises:
            GateError: the gate does not exist, has no class for an expert, or was trained for an
                adapter that is not served any more, and the request does not accept the remaining
                ones.
        """
        loaded = self.get(router.name)
        loaded.gate.rows(router.experts)
        missing = frozenset(loaded.gate.missing(served))
        dropped = tuple(name for name in router.experts if name in missing)
        if not dropped:
            return plan, ()
        names = ", ".join(map(quoted, dropped))
        if router.missing is Missing.ERROR:
            raise GateError(
                f"the gate {quoted(loaded.name)} was trained for adapters that are not served any "
                f"more, or were replaced: {names}. Train it again, publish them as they were, or "
                'set "missing": "remaining" to have it choose among the others.'
            )
        remaining = tuple(name for name in router.experts if name not in missing)
        if not remaining:
            raise GateError(
                f"the gate {quoted(loaded.name)} has nothing left to choose from: {names} are not "
                "served any more, or were replaced. Train it again, or publish them as they were."
            )
        start = None if router.start in dropped else router.start
        members = tuple(member for member in plan.members if member.model not in missing)
        settled = replace(
            plan,
            members=members,
            weights=(1 / len(members),) * len(members),
            mixture=plan.mixture
            and replace(plan.mixture, router=replace(router, experts=remaining, start=start)),
        )
        return settled, dropped


def load_gates(files: Sequence[tuple[str, Path]], base: Path) -> tuple[LoadedGate, ...]:
    """Load the gates of the command line.

    Args:
        files: name and file of each gate.
        base: folder of the base model.

    Raises:
        GateError: a file cannot be read, or its gate was trained for another base model.
        ValueError: a name is used twice.
    """
    if not files:
        return ()
    names = [name for name, _ in files]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--router gives {repeated} twice. Give each gate its own name.")
    base_fingerprint = fingerprint(base)
    gates = []
    for name, path in files:
        gate = load_gate(path)
        try:
            gate.check_base(base_fingerprint)
        except GateError as error:
            raise GateError(f"--router {name}={path}: {error.message}") from None
        gates.append(LoadedGate(name, path.resolve(), gate))
    return tuple(gates)
