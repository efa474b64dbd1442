"""The list of claims and its command. The measurements themselves take minutes and run by hand."""

from __future__ import annotations

import ast
import math
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import bench.claims.__main__ as command
from bench import results
from bench.claim import Claim, Result, Sense
from bench.claims import CLAIMS, overview

ROOT = Path(__file__).resolve().parent.parent.parent
MOST = Claim("most", "what", Sense.AT_MOST, 1.05)
LEAST = Claim("least", "what", Sense.AT_LEAST, 10)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_has_its_measurement(claim: Claim) -> None:
    spec = find_spec(claim.module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    assert "measure" in [node.name for node in body if isinstance(node, ast.FunctionDef)]


def test_every_measurement_is_a_claim() -> None:
    files = {path.stem for path in (ROOT / "bench" / "claims").glob("[!_]*.py")}
    assert files == {claim.name for claim in CLAIMS}


@pytest.mark.parametrize(
    ("claim", "result", "line"),
    [
        (MOST, Result(1.05), "most 1.05 1.05 ok"),
        (MOST, Result(1.0500001), "most 1.05 1.05 short"),
        (MOST, Result(0.0), "most 0 1.05 ok"),
        (MOST, Result(0.5, holds=False), "most 0.5 1.05 short"),
        (MOST, Result(math.nan), "most nan 1.05 short"),
        (LEAST, Result(10.0), "least 10 10 ok"),
        (LEAST, Result(9.99), "least 9.99 10 short"),
        (LEAST, Result(12345.6), "least 12346 10 ok"),
    ],
)
def test_the_verdict(claim: Claim, result: Result, line: str) -> None:
    assert claim.verdict(result) == line


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (2.0, 1)])
def test_the_verdict_is_the_last_line_and_the_status(
    value: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(claim: Claim) -> Result:
        print("a table")
        return Result(value)

    monkeypatch.setattr(command, "prepare", lambda: None)
    monkeypatch.setattr(command, "CLAIMS", (MOST,))
    monkeypatch.setattr(Claim, "measure", measure)
    assert command.main(["most"]) == status
    word = "ok" if status == 0 else "short"
    assert capsys.readouterr().out == f"a table\nmost {value:g} 1.05 {word}\n"


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [claim.name for claim in CLAIMS]


@pytest.mark.parametrize("names", [[], ["nonsense"], ["zoo", "nonsense"]])
def test_an_unknown_claim(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(names) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(claim.name in shown.err for claim in CLAIMS)


def test_the_kernels_memory_is_measured_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """The one claim that needs no engine, so that a whole measurement runs here."""
    status = command.main(["kernel_memory"])
    name, value, bound, word = capsys.readouterr().out.splitlines()[-1].split()
    assert (name, bound) == ("kernel_memory", "2")
    assert 1 <= float(value) < 4
    assert (status, word) in [(0, "ok"), (1, "short")]


def test_several_claims_end_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No claim is called `most`: its process ends without a verdict, which counts as short."""
    [kernel_memory] = (claim for claim in CLAIMS if claim.name == "kernel_memory")
    monkeypatch.setattr(command, "CLAIMS", (MOST, kernel_memory))
    assert command.main(["most", "kernel_memory"]) == 1
    most, kernel = capsys.readouterr().out.splitlines()[-2:]
    assert most == "most nan 1.05 short"
    assert kernel.split()[::2] == ["kernel_memory", "2"]


def test_the_results_page_is_what_the_records_render() -> None:
    shown = results.RESULTS.read_text(encoding="utf-8")
    assert shown == results.render(results.read()), "run python -m bench.results"


def test_a_record_names_the_machine_and_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RECORDS", tmp_path / "results" / "claims.jsonl")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")
    results.record(CLAIMS[0], Result(1.0))
    results.record(CLAIMS[0], Result(0.0))
    failed, passed = results.read(results.RECORDS)
    assert (failed.holds, passed.holds) == (False, True)
    assert passed.machine.cores >= 1
    in_repository = shutil.which("git") and (ROOT / ".git").exists()
    commit = r"[0-9a-f]{7,}(-dirty)?" if in_repository else "not recorded"
    assert re.fullmatch(commit, passed.commit)
    shown = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert f"| `{CLAIMS[0].name}` | 0 | <= 0 | yes | {passed.date} |" in shown
    assert str(passed.machine) in shown


def test_the_readme_lists_the_claims() -> None:
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- claims -->\n")[1].split("<!-- /claims -->")[0]
    assert shown.strip() == overview(), "paste bench.claims.overview() there"
