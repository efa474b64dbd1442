"""The processor that vLLM computes on: the fastest dtype, and how many threads.

vLLM's own choice for a CPU suits a server with many cores to itself: it pins its threads to cores,
leaves one core free, and counts neither a container's quota nor other servers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OMP_BIND = "VLLM_CPU_OMP_THREADS_BIND"
OMP_THREADS = "OMP_NUM_THREADS"

_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply bfloat16 numbers, as Linux names them: of x86, x86, Arm."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What this process may use of the machine.

    instructions: extensions of the instruction set, as in /proc/cpuinfo.
    cpus: logical CPUs (the affinity of the process) -> their physical core.
    nodes: NUMA nodes that these CPUs belong to.
    quota: CPUs that control groups grant; None without a limit.
    """

    instructions: frozenset[str]
    cpus: Mapping[int, object]
    nodes: int = 1
    quota: float | None = None

    @staticmethod
    def read(root: Path = Path("/")) -> Processor:
        """Read the processor of this machine from Linux's files below `root`.

        Other systems say no more here than how many CPUs there are.
        """
        if not hasattr(os, "sched_getaffinity"):
            return Processor(frozenset(), {cpu: cpu for cpu in range(os.cpu_count() or 1)})
        cpus = sorted(os.sched_getaffinity(0))
        system = root / "sys/devices/system"
        nodes = [path for path in system.glob("node/node[0-9]*") if _cpus_of(path) & {*cpus}]
        return Processor(
            _instructions(root / "proc/cpuinfo"),
            {cpu: _core(system / f"cpu/cpu{cpu}/topology", cpu) for cpu in cpus},
            max(len(nodes), 1),
            _quota(root),
        )

    @property
    def bfloat16(self) -> str | None:
        """Return the instructions that compute in bfloat16; None if it would be emulated."""
        return next((name for name in _BFLOAT16 if name in self.instructions), None)

    @property
    def cores(self) -> int:
        """Return how many threads can compute at once: one per physical core."""
        cores = len({*self.cpus.values()})
        return cores if self.quota is None else max(1, min(cores, math.floor(self.quota)))


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads each of vLLM's workers gets, and the variables that arrange it."""

    text: str
    variables: Mapping[str, str]


def threads(processor: Processor, workers: int, environment: Mapping[str, str]) -> Threads:
    """Return the threads of each worker of this machine.

    Threads are not pinned, so that several servers share all cores. On a machine with several NUMA
    nodes vLLM pins them, as it puts a worker's memory into one node. What the operator has set
    stays.
    """
    where = f"on cores {_ranges(processor.cpus)}"
    each = " per worker" if workers > 1 else ""
    if (bind := environment.get(OMP_BIND)) not in (None, "nobind"):
        return Threads(f"threads as {OMP_BIND}={bind}", {})
    if bind is None and processor.nodes > 1 and OMP_THREADS not in environment:
        return Threads(f"threads pinned by vLLM, {processor.nodes} NUMA nodes", {})
    if (given := environment.get(OMP_THREADS)) is not None:
        plural = "" if given == "1" else "s"
        text = f"{given} thread{plural}{each} ({OMP_THREADS}) {where}"
        return Threads(text, {OMP_BIND: "nobind"})
    count = max(1, processor.cores // workers)
    plural = "" if count == 1 else "s"
    variables = {OMP_BIND: "nobind", OMP_THREADS: str(count)}
    return Threads(f"{count} thread{plural}{each} {where}", variables)


def _instructions(cpuinfo: Path) -> frozenset[str]:
    """Return the extensions of the first CPU; x86 calls them flags, Arm features."""
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _core(topology: Path, cpu: int) -> object:
    """Return what identifies the physical core of a CPU; virtual machines may not say."""
    try:
        return tuple(
            (topology / name).read_text(encoding="ascii").strip()
            for name in ("physical_package_id", "die_id", "core_id")
            if (topology / name).exists() or name == "core_id"
        )
    except OSError:
        return cpu


def _cpus_of(node: Path) -> set[int]:
    """Return the CPUs of a NUMA node, from a list such as `0-3,8`."""
    cpus: set[int] = set()
    for part in (node / "cpulist").read_text(encoding="ascii").strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cpus |= {*range(int(first), int(last or first) + 1)}
    return cpus


def _quota(root: Path) -> float | None:
    """Return the least quota of the control groups of this process, in CPUs."""
    groups = root / "sys/fs/cgroup"
    quotas = []
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / "cpu" if controllers else groups
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            quotas += _limit(folder, version=1 if controllers else 2)
            if folder == top:
                break
    return min(quotas, default=None)


def _limit(group: Path, version: int) -> list[float]:
    """Return the quota of one control group in CPUs, or nothing."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text(encoding="ascii").strip() for name in names)
    except OSError:  # the root has no quota, and a container sees its own group only
        return []
    return [] if quota in ("max", "-1") else [int(quota) / int(period)]


def _ranges(cpus: Mapping[int, object]) -> str:
    """Return `0-3,8` for the CPUs 0, 1, 2, 3 and 8."""
    numbers = sorted(cpus)
    begins = [n for n in numbers if n - 1 not in cpus]
    ends = [n for n in numbers if n + 1 not in cpus]
    pairs = zip(begins, ends, strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)
