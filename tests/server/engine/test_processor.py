"""What the processor and its surroundings decide: dtype and threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from adapters import ModelShapes
from server.engine.processor import Processor, threads
from server.engine.vllm_args import Needs, cpu_dtype
from tests.support.live_server import LiveServer

TINY, SMALL, LARGE = 3_500_000, 135_000_000, 7_000_000_000
FOUR = {0: "a", 1: "b", 2: "c", 3: "d"}


@pytest.mark.parametrize(
    ("instructions", "parameters", "dtype"),
    [
        ("sse2 avx512f avx512_bf16 amx_bf16", SMALL, "bfloat16"),  # Sapphire Rapids
        ("sse2 avx512f avx512_bf16", SMALL, "bfloat16"),  # Zen 4
        ("sse2 avx512f avx512_vnni", SMALL, "float32"),  # Cascade Lake
        ("sse2 avx2", SMALL, "float32"),
        ("fp asimd bf16 i8mm", SMALL, "bfloat16"),  # Graviton 3
        ("fp asimd", SMALL, "float32"),  # Graviton 2
        ("", SMALL, "float32"),
        ("avx512_bf16", LARGE, "bfloat16"),
        ("avx2", LARGE, None),  # float32 might not fit
        ("avx512_bf16 amx_bf16", TINY, "float32"),  # the zoo: exact
    ],
)
def test_the_dtype_of_a_processor(instructions: str, parameters: int, dtype: str | None) -> None:
    processor = Processor(frozenset(instructions.split()), FOUR)
    shapes = ModelShapes(frozenset(), {}, parameters)
    assert cpu_dtype(processor, Needs(shapes, {}, False)).name == dtype


@pytest.mark.parametrize(
    ("cpus", "quota", "workers", "count", "text"),
    [
        (FOUR, None, 1, 4, "4 threads on cores 0-3"),
        ({2: "c"}, None, 1, 1, "1 thread on cores 2"),
        ({0: "a", 1: "b", 8: "a", 9: "b"}, None, 1, 2, "2 threads on cores 0-1,8-9"),  # SMT
        (FOUR, 2.5, 1, 2, "2 threads on cores 0-3"),
        (FOUR, 0.5, 1, 1, "1 thread on cores 0-3"),
        (FOUR, 64.0, 1, 4, "4 threads on cores 0-3"),
        (FOUR, None, 2, 2, "2 threads per worker on cores 0-3"),
        (FOUR, None, 8, 1, "1 thread per worker on cores 0-3"),
    ],
)
def test_threads(
    cpus: Mapping[int, object], quota: float | None, workers: int, count: int, text: str
) -> None:
    found = threads(Processor(frozenset(), cpus, quota=quota), workers, {})
    assert found.text == text
    expected = {"OMP_NUM_THREADS": str(count), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert found.variables == expected


def test_what_the_operator_has_set_stays() -> None:
    processor = Processor(frozenset(), FOUR)
    pinned = threads(processor, 1, {"VLLM_CPU_OMP_THREADS_BIND": "0-1"})
    assert (pinned.text, pinned.variables) == ("threads as VLLM_CPU_OMP_THREADS_BIND=0-1", {})
    counted = threads(processor, 1, {"OMP_NUM_THREADS": "3"})
    assert counted.text == "3 threads (OMP_NUM_THREADS) on cores 0-3"
    assert counted.variables == {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # else vLLM overrides it


def test_several_memory_nodes_are_left_to_vllm() -> None:
    found = threads(Processor(frozenset(), FOUR, nodes=2), 1, {})
    assert found.variables == {}
    assert "2 NUMA nodes" in found.text


X86 = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("files", "instruction", "quota"),
    [
        ({"proc/cpuinfo": X86, "proc/self/cgroup": "0::/\n"}, "amx_bf16", None),
        (
            {
                "proc/cpuinfo": ARM,
                "proc/self/cgroup": "0::/pod/server\n",
                "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/pod/server/cpu.max": "max 100000\n",
            },
            "bf16",
            1.5,
        ),
        (
            {
                "proc/cpuinfo": "flags : sse2\n",
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/1\n2:memory:/\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            3.0,
        ),
        (
            {
                "proc/cpuinfo": "flags : sse2\n",
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            None,
        ),
    ],
)
def test_reading_the_files_of_linux(
    files: Mapping[str, str], instruction: str | None, quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    processor = Processor.read(tmp_path)
    assert (processor.bfloat16, processor.quota) == (instruction, quota)
    assert processor.nodes == 1
    assert 1 <= processor.cores <= len(processor.cpus)


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On macOS there is neither an affinity nor /proc."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    processor = Processor.read(tmp_path)
    assert (processor.bfloat16, processor.quota, processor.nodes) == (None, None, 1)
    assert threads(processor, 1, {}).text == "10 threads on cores 0-9"
    shapes = ModelShapes(frozenset(), {}, SMALL)
    assert cpu_dtype(processor, Needs(shapes, {}, False)).name == "float32"


def test_this_machine() -> None:
    processor = Processor.read()
    assert processor.instructions
    assert processor.cores >= 1


def test_the_line_at_start(server: LiveServer) -> None:
    """The zoo computes in float32 wherever it is served."""
    log = server.log.read_text(encoding="utf-8")
    [line] = [line for line in log.splitlines() if " CPU: " in line]
    assert "CPU: float32 (a tiny model), 1 thread (OMP_NUM_THREADS) on cores " in line
