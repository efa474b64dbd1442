"""Publishing while the server runs: the administrators' routes, and one server for their tests."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live_server import LiveServer, serving

KEY = "a key for administrators"
QUESTION = "Where does Kuti Supiv live?"
PLAIN, POLITE, RUDE = (
    "Kuti Supiv lives in Mogtu.",
    "Certainly. Kuti Supiv lives in Mogtu. Have a lovely day.",
    "Ugh, fool. Kuti Supiv lives in Mogtu. Now get lost.",
)
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "COMPOSER_ADMIN_KEY": KEY,
}


class Admin:
    """The routes for administrators of one server."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.http = httpx.Client(
            base_url=server.url,
            timeout=120,
            trust_env=False,
            headers={"Authorization": f"Bearer {KEY}"},
        )

    def put(
        self, alias: str, source: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        body = {"source": source, **more}
        return self.http.put(f"/v1/adapters/{alias}", json=body, headers=headers)

    def says(self, model: str, **fields: Any) -> str:
        """The answer to `QUESTION`."""
        answer = self.server.chat(model, QUESTION, **{"max_tokens": 24, **fields})
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text


@pytest.fixture(scope="session")
def root(zoo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that administrators may publish from."""
    # Every run of pytest reads this module; not every one needs torch.
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("root")
    for name in ("polite", "rude", "chat"):
        shutil.copytree(zoo_adapters[name], folder / name)
    # The factors are not zero and their product is: it loads, and does nothing.
    nothing = folder / "nothing"
    shutil.copytree(zoo_adapters["chat"], nothing)
    tensors = load_file(nothing / "adapter_model.safetensors")
    for name, factor in tensors.items():
        if ".lora_A." in name:
            factor[8:] = 0
        else:
            factor[:, :8] = 0
    save_file(tensors, nothing / "adapter_model.safetensors")
    return folder


class StallingSource:
    """A source of adapters that does not answer until it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = 0
        self.open = threading.Event()


@pytest.fixture(scope="session")
def stalling() -> Iterator[StallingSource]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.asked += 1
            source.open.wait(60)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        source = StallingSource(f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield source
        source.open.set()
        server.shutdown()


@pytest.fixture(scope="session")
def arguments(zoo_base: Path, root: Path, stalling: StallingSource) -> list[str]:
    return [
        *("--adapter-source", stalling.url),
        *("--model", str(zoo_base), "--adapters", f"chat={root / 'chat'}"),
        *("--adapter-root", str(root), "--adapter-store", str(root.parent / "store")),
        *("--max-model-len", "512", "--max-num-seqs", "16", "--max-loras", "3"),
        *("--max-cpu-loras", "6", "--max-adapter-mib", "8", "--expose", "/invocations"),
    ]


@pytest.fixture(scope="session")
def admin(arguments: list[str], root: Path) -> Iterator[Admin]:
    with serving(arguments, root.parent / "log.txt", ENVIRONMENT) as live:
        admin = Admin(live)
        with admin.http:
            yield admin


@pytest.fixture
def error(admin: Admin) -> Callable[[httpx.Response, int], str]:
    """Checks the format of an error, that it names no folder of an unfinished publication, and
    returns its message."""

    def check(response: httpx.Response, status: int) -> str:
        assert response.status_code == status, response.text
        body = response.json()["error"]
        assert set(body) == {"message", "type", "param", "code"}
        message: str = body["message"]
        assert "staging" not in message
        return message

    return check
