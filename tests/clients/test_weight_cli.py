"""`composer adapters` on the disk: what it prints, writes and refuses, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig

from adapters.inspection.inspect import inspect
from adapters.store.store import Store
from clients.cli import local_work
from clients.cli.main import main
from tests.adapters.weight_space.extract.models import (
    LINEAR,
    NORM,
    Q,
    base_tensors,
    changed,
    write_model,
)
from tests.adapters.weight_space.merge.samples import dense, distance, products, write
from tests.support.adapter_files import write_adapter
from tests.support.peft_adapters import BASE, train

PROGRAM = [sys.executable, "-m", "clients.cli.main", "adapters"]
ROOT = Path(__file__).resolve().parents[2]
REFUSED, USAGE = 1, 2


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process, where torch is imported already."""

    def run_here(*words: object) -> Done:
        code = main(["adapters", *map(str, words)])
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run_here


def run(*words: object) -> Done:
    """In a process of its own, with pipes for a terminal."""
    done = subprocess.run(
        [*PROGRAM, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Files:
    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("cli"))
    write_model(files.base, base_tensors())
    write_model(files.tuned, changed(base_tensors()))
    write_model(files.renormed, changed(base_tensors()) | {NORM: torch.full((24,), 1.5)})
    write_model(files.wider, base_tensors() | {f"{Q}.weight": torch.ones(30, 24)})
    write(files.polite, 1, shapes=LINEAR)
    write(files.rude, 2, shapes=LINEAR)
    return files


def test_inspect(files: Files) -> None:
    done = run("inspect", files.polite, "--base", files.tuned)
    assert done.code == 0, done.err
    report = inspect(files.polite, "polite")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (lines["rank"], lines["scaling"]) == ("4", "1.5")
    assert lines["modules"] == "3: lm_head, q_proj, up_proj"
    assert lines["digest"] == report.digest
    assert "composer: warning: it was trained on a/base" in done.err

    done = run("inspect", files.polite, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == report.to_json()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_convert(tmp_path: Path, call: Callable[..., Done]) -> None:
    train(LoHaConfig(r=2, target_modules=["q_proj"]), tmp_path / "loha")
    words = ("inspect", tmp_path / "loha", "--convert", tmp_path / "lora")
    done = call(*words)
    assert (done.code, "needs --base FOLDER" in done.err) == (USAGE, True)
    done = call(*words, "--base", BASE)
    assert done.code == 0, done.err
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines())
    assert (lines["converted from"], lines["rank"], lines["exact"]) == ("LOHA", "4", "yes")
    assert inspect(tmp_path / "lora", "lora").rank == 4
    done = call(*words, "--base", BASE)
    assert (done.code, "exists already" in done.err) == (REFUSED, True)
    done = call("inspect", tmp_path / "lora", "--rank", 4)
    assert (done.code, "there is no --rank" in done.err) == (USAGE, True)


def test_inspecting_does_not_wait_for_torch(files: Files) -> None:
    """Seconds on most machines, for nothing."""
    program = (
        "import sys; from clients.cli.main import main; code = main(['adapters', *sys.argv[1:]]); "
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    words = [sys.executable, "-c", program, "inspect", str(files.polite)]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_merge_by_options_and_by_file(
    files: Files, tmp_path: Path, call: Callable[..., Done]
) -> None:
    done = call(
        *("merge", "--method", "ties", "--rank", 3, "--set", "density=0.5"),
        *("--adapter", f"{files.polite}=0.75", "--adapter", files.rude),
        *("--output", tmp_path / "options"),
    )
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].split() == ["module", "rank", "energy"]
    assert Q in done.out
    members = [{"adapter": str(files.polite), "weight": 0.75}, {"adapter": str(files.rude)}]
    spec = {"method": "ties", "rank": 3, "density": 0.5, "adapters": members}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = call("merge", tmp_path / "spec.json", "--output", tmp_path / "file", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["rank"] == 3
    one, two = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("options", "file")
    )
    assert one == two


def test_extract(files: Files, tmp_path: Path) -> None:
    done = run(
        *("extract", "--base", files.base, "--tuned", files.tuned, "--rank", 5),
        *("--output", tmp_path / "new" / "out"),
    )
    assert done.code == 0, done.err
    assert done.err == ""  # no progress bar without a terminal
    header, *rows = done.out.split("\n\n")[0].splitlines()
    assert header.split() == ["module", "shape", "rank", "change", "energy", "error"]
    assert {row.split()[0] for row in rows} == LINEAR.keys()
    assert len({len(row) for row in (header, *rows)}) == 1  # aligned
    assert inspect(tmp_path / "new" / "out", "a").rank == 5


def test_extract_as_json_with_an_energy(
    files: Files, tmp_path: Path, call: Callable[..., Done]
) -> None:
    done = call(
        *("extract", "--base", files.base, "--tuned", files.renormed, "--energy", 0.9, "--json"),
        *("--ignore-other-changes", "--max-rank", 3, "--output", tmp_path / "out"),
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [change["name"] for change in report["other"]] == [NORM]
    assert max(module["rank"] for module in report["modules"]) <= 3


def test_patch(files: Files, tmp_path: Path, call: Callable[..., Done]) -> None:
    (tmp_path / "out").mkdir()  # empty, so it may be taken
    done = call(
        *("patch", "--adapter", files.polite, "--from", files.base, "--to", files.tuned),
        *("--scale", 2, "--output", tmp_path / "out", "--base-model", "org/later"),
    )
    assert done.code == 0, done.err
    assert "measure the adapter's quality" in done.err
    assert "org/later" in done.out
    expected = {module: 2 * delta for module, delta in dense(files.polite).items()}
    assert distance(dense(tmp_path / "out"), expected) < 1e-12


REFUSALS = {
    "inspect": ("{root}/nothing", "no such folder"),
    "inspect --base {base}": ("{wider}", "adapter_config.json is missing"),
    "inspect --base {wider}": ("{polite}", "[30, 24]"),
    "inspect --base {root}": ("{polite}", "no .safetensors file"),
    "merge --method blend --adapter": ("{polite} --output {new}", "merge.method is 'blend'"),
    "merge --method ties --rank 2 --adapter": (
        "{polite} --set mass=3 --output {new}",
        "merge.mass is not a field",
    ),
    "merge --method sum --adapter {polite} --adapter": ("{base} --output {new}", "is missing"),
    "merge {polite}/adapter_model.safetensors": ("--output {new}", "is not JSON"),
    "extract --rank 2 --base {base} --tuned": ("{renormed} --output {new}", NORM),
    "extract --energy 2 --base {base} --tuned": ("{tuned} --output {new}", "energy is 2.0"),
    "extract --rank 4 --base {base} --tuned": ("{wider} --output {new}", "[30, 24]"),
    "extract --rank 3 --base {base} --tuned": ("{tuned} --output {base}", "exists already"),
    "patch --adapter {polite} --to": ("{wider} --output {new}", "[30, 24]"),
    "patch --scale 0 --adapter {polite} --to": ("{base} --output {new}", "scale 0"),
}


@pytest.mark.parametrize("command", REFUSALS)
def test_refusals(
    files: Files, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the reason, the exit code 1, and nothing left behind."""
    rest, expected = REFUSALS[command]
    places = {name: getattr(files, name) for name in ("base", "tuned", "renormed", "wider")}
    places |= {"polite": files.polite, "root": files.root, "new": tmp_path / "new"}
    before = sorted(files.root.rglob("*"))
    words = f"{command} {rest}".format(**places).split()
    assert main(["adapters", *words]) == REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("composer: ")
    assert printed.err.count("\n") == 1
    assert expected in printed.err
    assert sorted(files.root.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


EXTRACT = ["extract", "--base", "b", "--tuned", "t", "--output", "o"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Missing command"),
        (["melt"], "melt"),
        (["inspect"], "PATH"),
        (EXTRACT, "--energy"),
        ([*EXTRACT, "--rank", "1", "--energy", "1"], "give either"),
        ([*EXTRACT, "--rank", "many"], "'--rank'"),
        (["merge", "--output", "o"], "either SPEC.json or --method"),
        (["merge", "spec.json", "--rank", "3", "--output", "o"], "either SPEC.json or --method"),
        (["merge", "nowhere.json", "--output", "o"], "no file 'nowhere.json'"),
        (["merge", "--adapter", "polite=much", "--output", "o"], "'much'"),
        (["merge", "--set", "density", "--output", "o"], "'density' is not NAME=VALUE"),
        (["merge", "--set", "a=1", "--set", "a=2", "--output", "o"], "twice"),
    ],
)
def test_wrong_command_lines(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapters", *words]) == USAGE
    assert expected in capsys.readouterr().err


def test_the_codes_are_those_of_the_process(files: Files, tmp_path: Path) -> None:
    assert run("inspect", tmp_path / "nothing").code == REFUSED
    assert run("inspect").code == USAGE
    assert run("--help").code == 0


def test_a_disk_that_fails(files: Files, tmp_path: Path, call: Callable[..., Done]) -> None:
    (tmp_path / "file").write_text("")
    words = ["merge", "--method", "sum", "--adapter", files.polite]
    done = call(*words, "--output", tmp_path / "file" / "out")
    assert done.code == 4
    assert done.err.startswith("composer: ")


def test_a_reader_that_leaves(files: Files) -> None:
    """As in `composer adapters inspect ... | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        words = [*PROGRAM, "inspect", str(files.rude)]
        done = subprocess.run(
            words, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interruption_leaves_nothing(files: Files, tmp_path: Path) -> None:
    """The signal comes when the hidden folder is there, which is while the result is computed."""
    program = (
        # Where the tests run in the background of a shell, children inherit that SIGINT is ignored.
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from clients.cli.main import main; from adapters.weight_space import patch; "
        "patch.shutil.copyfile = lambda *a: os.kill(os.getpid(), signal.SIGINT); "
        "sys.exit(main(['adapters', *sys.argv[1:]]))"
    )
    words = ["patch", "--adapter", files.polite, "--to", files.base, "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], cwd=ROOT, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert list(tmp_path.iterdir()) == []


def test_a_progress_bar_on_a_terminal(files: Files, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    pytest.importorskip("termios").tcsetwinsize(child, (24, 100))
    words = ["merge", "--method", "sum", "--adapter", files.polite, "--output", tmp_path / "out"]
    done = subprocess.run(
        [*PROGRAM, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=child, check=False
    )
    os.set_blocking(parent, False)
    shown = os.read(parent, 1 << 16).decode()
    os.close(child)
    os.close(parent)
    assert done.returncode == 0
    assert "100%" in shown
    assert b"%" not in done.stdout


class Lines(io.StringIO):
    """A log whose reader waits for its next line of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.SimpleQueue[str] = queue.SimpleQueue()

    def write(self, text: str) -> int:
        self.queue.put(text)
        return len(text)

    def next(self, beginning: str) -> str:
        while not (text := self.queue.get(timeout=30)).startswith(beginning):
            assert text == "\n" or text.startswith("composer: "), text
        return text


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the first step, and while a step takes long."""
    monkeypatch.setattr(local_work, "INTERVAL_S", 0.01)
    lines = Lines()
    monkeypatch.setattr(sys, "stderr", lines)
    with local_work.show_progress() as step:
        for _ in range(2):
            assert lines.next("composer: starting (0 s)")
        step(0, 3, "load")
        for _ in range(2):
            assert lines.next("composer: 0%, 0 of 3: load (")
        step(3, 3, "fit")
        assert lines.next("composer: 100%, 3 of 3: fit (")
    ended = lines.queue.qsize()
    assert "progress" not in {thread.name for thread in threading.enumerate()}
    assert lines.queue.qsize() == ended


def test_permissions_of_the_result(files: Files, tmp_path: Path) -> None:
    words = ["merge", "--method", "sum", "--adapter", str(files.polite)]
    assert main(["adapters", *words, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert products(tmp_path / "out").keys() == LINEAR.keys()


def test_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    for n in range(3):
        with store.staging() as folder:
            adapter = write_adapter(tmp_path / f"a{n}", number=n)
            for file in adapter.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            stored = store.commit(folder, "a", None, {})
            store.publish("a", stored.digest, actor="test", origin={})
    assert main(["adapters", "prune", str(store.root), "--keep", "2"]) == 0
    assert "1 contents removed" in capsys.readouterr().out
    assert main(["adapters", "prune", str(store.root), "--keep", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["removed"]) == 1
    assert store.current("a").number == 3
    assert main(["adapters", "prune", str(tmp_path)]) == 2
    assert "not an adapter store" in capsys.readouterr().err
