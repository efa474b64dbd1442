"""`python -m server`: check the configuration, load the engine, serve."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from adapters import ModelShapes, Profile, Store
from composer.errors import ComposerError
from composer.fields import BASE
from composer.vllm.options import prepare_environment
from composer.vllm.progress import stage
from server.compose.routing.gates import LoadedGate, load_gates
from server.compose.routing.sentence_encoder import SentenceEncoder
from server.engine.engine_process import run_first_in_children
from server.engine.listen_address import check_address
from server.engine.vllm_args import Needs, is_tiny
from server.lifecycle import ENGINE_DIED, Lifecycle
from server.logs import choose_levels, configure_logging, end_quiet_start
from server.settings import Settings
from server.startup.auxiliary_models import find_auxiliaries
from server.startup.base_model import find_folder
from server.startup.model_folder import check_model, lacks_chat_template
from server.startup.seed_store import publish_seeds, read_examples

logger = logging.getLogger("server")

_TINY_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Environment for tiny models on a CPU.

One thread is fastest, threads pinned to busy cores mostly wait for each other, and a separate
process for the engine only takes longer to start.
"""

_INTERRUPTED_S = 3.0
"""How long an interrupted start may take to clean up."""

_RUNTIME_UPDATES = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
_RESPONSE_STORE = "VLLM_ENABLE_RESPONSES_API_STORE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server.

    Returns:
        The exit status: 0 after a requested stop, 1 if the server did not start,
        `lifecycle.ENGINE_DIED`, or 128 plus the number of the second signal.
    """
    settings = Settings.from_arguments(sys.argv[1:] if arguments is None else arguments)
    choose_levels(verbose=settings.verbose)
    configure_logging()
    lifecycle = Lifecycle(settings.drain_s)

    def interrupt_start(signum: int, frame: FrameType | None) -> None:
        """End at once: before the server is ready there is nothing to finish."""
        for process in multiprocessing.active_children():
            process.kill()
        lifecycle.exit_within(_INTERRUPTED_S)
        raise KeyboardInterrupt  # libraries may swallow it, hence the deadline above

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt_start)
    try:
        _serve(settings, lifecycle)
    except (ComposerError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        logger.info("stopped before it was ready")
    if lifecycle.exit_status == ENGINE_DIED:
        print("error: the engine died; its own log is above", file=sys.stderr, flush=True)
    return lifecycle.exit_status


def _serve(settings: Settings, lifecycle: Lifecycle) -> None:
    start = time.monotonic()
    logger.info("looking at the base model %s", settings.model)
    folder = find_folder(settings.model, settings.vllm_flags)
    check_model(folder, settings.vllm_flags)
    chats = not lacks_chat_template(folder, settings.vllm_flags)
    if not chats:
        logger.warning(
            "the model has no chat template: chat completions are refused, completions are not; "
            "give one with --chat-template FILE"
        )
    shapes = ModelShapes.read(folder)
    auxiliaries = find_auxiliaries(settings.auxiliaries, folder, settings.vllm_flags)
    profiles = _read_profiles(settings)
    gates = load_gates(settings.routers, folder)
    with _adapter_store(settings) as store:
        publish_seeds(store, settings.adapters, shapes, profiles)
        for model in auxiliaries:
            publish_seeds(store, model.option.adapters, model.shapes, profiles)
        aliases = store.aliases()
        for alias in aliases:
            _log_adapter(store, alias)
        if not aliases:
            logger.info("no adapters; add them with --adapters name=path")
        for gate in gates:
            _log_gate(gate, aliases)
        logger.info("%d stored compositions", len(store.compositions.all()))
        if settings.adapter_store is None:
            logger.info("what is published or stored is lost at exit; see --adapter-store")
        elif store.read_only:
            logger.warning("the adapter store is read-only: nothing can be published or stored")
        _prepare_environment(settings, shapes)
        check_address(settings.host, settings.port, settings.vllm_flags)
        encoder = _load_encoder(settings.prompt_encoder)
        # vLLM takes seconds to import, so it comes last, after everything that can fail early.
        with stage("importing vLLM"):
            from server import app
            from server.engine.vllm import launch

        ranks = {a: store.stored(str(store.current(a).digest)).report.rank for a in aliases}
        model_profiles = {name: p for name, p in profiles.items() if name not in aliases}
        deployment = app.Deployment(
            *(settings, folder, shapes, auxiliaries, store, lifecycle, gates, encoder),
            profiles=model_profiles,
        )
        launch.run(
            settings,
            Needs(shapes, ranks, settings.keys.publishes, auxiliaries),
            lifecycle,
            assemble=lambda engine: app.assemble(engine.app, engine, deployment),
            on_ready=lambda url: _announce(
                url, time.monotonic() - start, chats=chats, keys=settings.keys.required
            ),
        )


def _read_profiles(settings: Settings) -> dict[str, Profile]:
    """Return the examples of the command line, by the name of their model or adapter.

    Raises:
        ValueError: a file cannot be read, or the command line has no such name.
    """
    profiles: dict[str, Profile] = {}
    known = {BASE, *(alias for alias, _ in settings.adapters)}
    for model in settings.auxiliaries:
        known |= {model.name, *(alias for alias, _ in model.adapters)}
    for name, file in settings.examples:
        if name not in known:
            raise ValueError(
                f"--examples {name}={file}: the command line has no model or adapter of that "
                "name. Add it with --adapters, or publish the adapter with its examples."
            )
        if name in profiles:
            raise ValueError(f"--examples has '{name}' twice. Put its examples into one file.")
        profiles[name] = read_examples(name, file)
    return profiles


def _load_encoder(folder: Path | None) -> SentenceEncoder | None:
    if folder is None:
        return None
    with stage("loading the prompt encoder"):
        return SentenceEncoder(folder)


@contextmanager
def _adapter_store(settings: Settings) -> Iterator[Store]:
    """Open the operator's store, or a temporary one."""
    if settings.adapter_store is not None:
        yield Store(settings.adapter_store)
        return
    with tempfile.TemporaryDirectory(prefix="composer-adapters-") as folder:
        yield Store(Path(folder))


def _prepare_environment(settings: Settings, shapes: ModelShapes | None) -> None:
    """Set the environment variables that vLLM reads as it is imported, unless they are set."""
    if os.environ.get(_RUNTIME_UPDATES, "0") not in ("", "0"):
        raise ValueError(
            f"{_RUNTIME_UPDATES} is set: its routes load adapters from any path, unchecked. "
            "Unset it. Name adapters with --adapters, or set COMPOSER_ADMIN_KEY, so that these "
            "routes publish in the adapter store."
        )
    if settings.keys.required and os.environ.get(_RESPONSE_STORE, "0") not in ("", "0"):
        raise ValueError(
            f"{_RESPONSE_STORE} is set: any key could continue the responses of any other. "
            "Unset it, or serve without keys."
        )
    os.environ.pop("VLLM_API_KEY", None)  # `server.auth.access_control` checks it on every route
    # Longer than clients keep idle connections, so that none sends a request as it is closed.
    os.environ.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "75")
    # The engine's processes import our scheduler by name, whatever their working directory.
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *filter(None, paths)]))
    logger.info("model runner: %s", prepare_environment(settings.model_runner))
    run_first_in_children()
    if is_tiny(shapes):
        for name, value in _TINY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def _log_adapter(store: Store, alias: str) -> None:
    version = store.current(alias)
    report = store.stored(str(version.digest)).report
    logger.info(
        f"adapter {alias}: rank {report.rank}, sha256 {str(version.digest)[:12]}, "
        f"version {version.number}"
    )
    for warning in report.warnings:
        logger.warning("adapter %s: %s", alias, warning)


def _log_gate(loaded: LoadedGate, aliases: Sequence[str]) -> None:
    logger.info("gate %s: chooses among %s", loaded.name, ", ".join(loaded.gate.classes))
    for name in loaded.gate.classes:
        if name != BASE and name not in aliases:
            logger.info(
                "gate %s: no adapter is called %s; publish it, or request the others",
                loaded.name,
                name,
            )


def example_request(url: str, *, chats: bool, keys: bool) -> str:
    """Return a shell command that asks the base model of the server at `url` a question.

    chats: whether the model has a chat template; without one it continues a text.
    keys: whether requests need a key.
    """
    prompt: dict[str, object] = {"prompt": "The capital of Japan is"}
    if chats:
        message = {"role": "user", "content": "What is the capital of Japan?"}
        prompt = {"messages": [message]}
    body = {"model": BASE, **prompt, "temperature": 0, "max_tokens": 20}
    route = "chat/completions" if chats else "completions"
    authorization = "  -H 'Authorization: Bearer YOUR_KEY' \\\n" if keys else ""
    return (
        f"curl {url}/v1/{route} -H 'Content-Type: application/json' \\\n{authorization}"
        f"  -d '{json.dumps(body)}'"
    )


def _announce(url: str, seconds: float, *, chats: bool, keys: bool) -> None:
    end_quiet_start()
    url = url.replace("//0.0.0.0:", "//127.0.0.1:")
    logger.info("ready after %.0f s at %s; try:", seconds, url)
    print(example_request(url, chats=chats, keys=keys), flush=True)


if __name__ == "__main__":
    sys.exit(main())
