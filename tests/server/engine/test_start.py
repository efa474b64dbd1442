"""Starts that fail: what is wrong, at once, and without a traceback."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

import zoo
from composer.mixtures.gate_file import Gate, fingerprint, save_gate
from server.engine.listen_address import check_address
from tests.support.adapter_files import factors, write_adapter, write_base
from tests.support.live_server import refused

RUNNER = "VLLM_USE_V2_MODEL_RUNNER"

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of the shapes that adapters are compared with, and what makes a folder a model."""
    folder = write_base(tmp_path_factory.mktemp("model") / "base")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo.BASE / name, folder / name)
    return str(folder)


def test_an_adapter_of_another_base(base: str, tmp_path: Path) -> None:
    fine = write_adapter(tmp_path / "fine")
    wide = write_adapter(tmp_path / "wide", factors(hidden=16))
    said = refused("--model", base, "--adapters", f"fine={fine},wide={wide}")
    assert "adapter 'wide'" in said
    assert "[16, 16]" in said
    assert "trained on" in said


def test_an_adapter_that_is_not_there(base: str, tmp_path: Path) -> None:
    said = refused("--model", base, "--adapters", f"polite={tmp_path}/nowhere")
    assert "adapter 'polite'" in said
    assert "no such folder" in said


def test_one_name_for_two(base: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    assert "given twice" in refused("--model", base, "--adapters", f"a={path},a={path}")
    assert "the base model" in refused("--model", base, "--adapters", f"base={path}")


def test_no_model(tmp_path: Path) -> None:
    said = refused("--model", str(tmp_path / "nowhere"))
    assert "nowhere" in said
    assert "Correct the path or the name" in said


def test_examples_of_nothing(base: str, tmp_path: Path) -> None:
    file = tmp_path / "e.txt"
    file.write_text("Hello?\n")
    said = refused("--model", base, "--examples", f"polite={file}")
    assert "polite" in said
    assert "--adapters" in said
    assert "twice" in refused("--model", base, "--examples", f"base={file},base={file}")
    assert "nowhere" in refused("--model", base, "--examples", f"base={tmp_path}/nowhere")


def test_a_gate_of_another_base(zoo_base: Path, zoo_small: Path, tmp_path: Path) -> None:
    base = str(zoo_base)
    weight, bias = np.zeros((2, 16), np.float32), np.zeros(2, np.float32)
    digests = {"base": None, "polite": None}
    gate = Gate(("base", "polite"), weight, bias, digests, fingerprint(zoo_small))
    save_gate(gate, tmp_path / "gate")
    said = refused("--model", base, "--router", f"tasks={tmp_path}/gate")
    assert f"--router tasks={tmp_path}/gate" in said
    assert f"fingerprint {gate.base[:12]}" in said
    assert "composer router train" in said
    assert "no such file" in refused("--model", base, "--router", f"tasks={tmp_path}/nowhere")
    twice = f"tasks={tmp_path}/gate,tasks={tmp_path}/gate"
    assert "twice" in refused("--model", base, "--router", twice)


def test_a_port_in_use_is_noticed_before_vllm_is_imported(zoo_base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused("--model", str(zoo_base), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "--port" in said
    assert "PORT= of make" in said
    assert "importing vLLM" not in said


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.1:0: .*--host"):
        check_address("192.0.2.1", 0, ())


def test_addresses_that_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_address("127.0.0.1", port, ("--uds", "/tmp/socket"))
        check_address("127.0.0.1", port, ("--config=file.yaml",))
    check_address("127.0.0.1", port, ())


def test_a_model_runner_that_cannot_be_had(base: str) -> None:
    said = refused("--model", base, "--model-runner", "v2", environment={RUNNER: ""})
    assert "needs Triton, which is not installed" in said
    assert "--model-runner v1" in said
    other = refused("--model", base, "--model-runner", "v1", environment={RUNNER: "1"})
    assert f"{RUNNER} is set to 1" in other


def test_vllms_unchecked_adapter_routes_stay_closed(base: str) -> None:
    name = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert name in refused("--model", base, environment={name: "1"})


def test_the_store_of_responses_knows_no_keys(base: str) -> None:
    name = "VLLM_ENABLE_RESPONSES_API_STORE"
    assert name in refused("--model", base, "--api-key", "secret", environment={name: "1"})
