"""Folders that are not, or not wholly, a model that generates text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from server.startup.model_folder import ModelFlags, check_model, lacks_chat_template

ZOO = Path(__file__).resolve().parents[3] / "zoo"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the zoo's base model."""
    return Path(shutil.copytree(ZOO / "models" / "base", tmp_path / "model"))


def configure(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | fields))


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def remove(*patterns: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return change


def shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def replace_by_gguf(folder: Path) -> None:
    empty(folder)
    (folder / "model.Q4_K_M.gguf").write_bytes(b"GGUF")


def replace_by_adapter(folder: Path) -> None:
    empty(folder)
    shutil.copytree(ZOO / "adapters" / "polite", folder, dirs_exist_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty, "holds no config.json, so no model; it holds nothing. Give a folder"),
        (remove("config.json"), "it holds chat_template.jinja, .*Give a folder"),
        (replace_by_gguf, r"but the GGUF file model.Q4_K_M.gguf, .*Give the model that it was"),
        (replace_by_adapter, "holds an adapter, not a model. Give --model .* --adapters model="),
        (lambda f: (f / "config.json").write_text('{"a": ['), "config.json' is not JSON: .*again"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json' is not a JSON object"),
        (remove("tokenizer*"), "holds no tokenizer .*--tokenizer"),
        (remove("*.safetensors"), "no weights .*Download or copy it again"),
        (shard, r"lacks model-2.safetensors, 1 of the files that model.safetensors.index.json"),
        (
            lambda f: (f / "model.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
            ),
            "is a pointer of Git LFS, not the weights. Run `git lfs pull`",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:100_000]
            ),
            "model.safetensors' cannot be read: .*again",
        ),
        (lambda f: configure(f, is_encoder_decoder=True), "an encoder-decoder model .*decoder-on"),
        (
            lambda f: configure(f, architectures=["BertForMaskedLM"]),
            "does not generate text .BertForMaskedLM.. Give a decoder-only",
        ),
        (lambda f: configure(f, architectures=["XLMRobertaModel"]), "does not generate text"),
    ],
)
def test_refused(folder: Path, change: Callable[[Path], object], message: str) -> None:
    check_model(folder, ())
    change(folder)
    with pytest.raises(ValueError, match=message):
        check_model(folder, ())


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        (remove("config.json"), ["--hf-config-path=elsewhere"]),
        (remove("*.safetensors"), ["--load-format", "dummy"]),
        (remove("tokenizer*"), ["--tokenizer", "elsewhere"]),
        (remove("config.json"), ["--hf_config_path=elsewhere"]),
        (remove("*.safetensors"), ["--load_format", "dummy"]),
        (remove("*.safetensors"), ["--model-loader-extra-config.device", "cpu"]),
        (lambda f: configure(f, is_encoder_decoder=True), ["--hf_overrides.is_encoder_decoder=0"]),
        (empty, ["--config", "options.yaml"]),
    ],
)
def test_what_an_option_replaces_need_not_be_there(
    folder: Path, change: Callable[[Path], object], flags: list[str]
) -> None:
    change(folder)
    check_model(folder, flags)


def test_a_missing_chat_template_is_noticed(folder: Path) -> None:
    assert not lacks_chat_template(folder, ())
    (folder / "chat_template.jinja").unlink()
    assert lacks_chat_template(folder, ())
    for flags in (["--chat-template=file"], ["--chat_template", "file"], ["--config", "x.yaml"]):
        assert not lacks_chat_template(folder, flags)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"chat_template": "{{ '' }}"}))
    assert not lacks_chat_template(folder, ())


@pytest.mark.parametrize("flags", [["--download_dir", "a/b_c.d"], ["--download_dir=a/b_c.d"]])
def test_values_are_read_as_they_are(flags: list[str]) -> None:
    read = ModelFlags.read([*flags, "--revision", "v1.0"])
    assert (read.download_dir, read.revision) == ("a/b_c.d", "v1.0")
