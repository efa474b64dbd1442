"""Finding the base model's files, without the network."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from server.startup import base_model
from server.startup.base_model import find_folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the Hugging Face hub that holds one model in two revisions."""
    repository = tmp_path / "models--org--tiny"
    for commit, revision in (("a" * 40, "main"), ("b" * 40, "v2")):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "model.safetensors").write_bytes(b"")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return tmp_path


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path), ()) == tmp_path


@pytest.mark.parametrize(
    ("flags", "commit"), [((), "a"), (("--revision", "v2"), "b"), (("--revision=v2",), "b")]
)
def test_what_was_downloaded_before(cache: Path, flags: tuple[str, ...], commit: str) -> None:
    found = find_folder("org/tiny", ("--download-dir", str(cache), *flags))
    assert found == cache / "models--org--tiny" / "snapshots" / (commit * 40)


def test_a_download_that_was_broken_off_is_not_taken_for_the_model(cache: Path) -> None:
    [weights] = cache.glob("models--org--tiny/snapshots/a*/model.safetensors")
    weights.unlink()
    with pytest.raises(ValueError, match=r"lacks weights: .*Run `hf download org/tiny"):
        find_folder("org/tiny", ("--download-dir", str(cache)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "has a name like Qwen/Qwen3-0.6B. Correct the path"),
        ("org/tiny", "HF_HUB_OFFLINE forbids"),
        ("nowhere.Q4_K_M.gguf", "there is no such file"),
        ("model.Q4_K_M.gguf", "is a GGUF file, which vLLM does not load. Give the model that"),
        ("file", "is a file. Give the folder"),
    ],
)
def test_what_is_no_model(tmp_path: Path, name: str, message: str) -> None:
    for file in ("file", "model.Q4_K_M.gguf"):
        (tmp_path / file).touch()
    given = name if name == "org/tiny" else str(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        find_folder(given, ("--download-dir", str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (GatedRepoError, "accepted its licence. Accept it on the model's page, and set HF_TOKEN"),
        (RevisionNotFoundError, "no revision 'v9' of it. Correct --revision"),
        (RepositoryNotFoundError, "no such model, or a private one. Correct the name"),
    ],
)
def test_what_the_hub_refuses(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[RepositoryNotFoundError | RevisionNotFoundError],
    message: str,
) -> None:
    answer = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))

    def refuse(*_: object, **__: object) -> str:
        raise kind("refused", response=answer)

    monkeypatch.setattr(base_model, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=message):
        find_folder("org/tiny", ("--revision", "v9"))
