"""How long others wait while the server is attacked: two probes in a process of their own."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_bool
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from bench.abuse.attack import COMPLETIONS, authorization, completion

PAUSE_S = 0.02
PATIENCE_S = 60.0


class Watch:
    """The longest wait since `reset` for the event loop and for the engine."""

    def __init__(self, longest: list[Synchronized[float]], counts: list[Synchronized[int]]) -> None:
        self._longest = longest
        self._counts = counts

    def reset(self) -> None:
        """Forget the waits so far; one that goes on is not forgotten."""
        for value in self._longest:
            value.value = 0.0

    def longest(self) -> tuple[float, float]:
        """Seconds of the longest wait for `/live` and for a plain request of one token.

        It counts probes until one that began after the call has ended; infinite if none does.
        """
        begin = time.monotonic()
        seen = [count.value for count in self._counts]
        while any(now.value < then + 2 for now, then in zip(self._counts, seen, strict=True)):
            if time.monotonic() - begin > PATIENCE_S:
                return (float("inf"), float("inf"))
            time.sleep(PAUSE_S)
        live, engine = (value.value for value in self._longest)
        return live, engine


@contextmanager
def watching(port: int) -> Iterator[Watch]:
    """Probes of the server at `port` of the loopback address, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    longest = [context.Value("d", 0.0) for _ in range(2)]
    counts = [context.Value("l", 0) for _ in range(2)]
    ends = context.Value(c_bool, False)
    process = context.Process(target=_probe, args=(port, longest, counts, ends), daemon=True)
    process.start()
    try:
        yield Watch(longest, counts)
    finally:
        ends.value = True
        process.join(5)
        process.kill()


def _probe(port: int, longest: Any, counts: Any, ends: Any) -> None:
    plain = json.dumps(completion(max_tokens=1)).encode()
    probes = (("GET", "/live", b""), ("POST", COMPLETIONS, plain))
    threads = [
        threading.Thread(target=_ask, args=(port, *probe, longest[i], counts[i], ends))
        for i, probe in enumerate(probes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask(
    port: int, method: str, path: str, body: bytes, longest: Any, count: Any, ends: Any
) -> None:
    headers = {"Content-Type": "application/json", **authorization("user")}
    while not ends.value:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers)
            connection.getresponse().read()
        except OSError:  # the server is gone, which is seen elsewhere
            time.sleep(1)
            continue
        finally:
            connection.close()
        longest.value = max(longest.value, time.monotonic() - begin)
        count.value += 1
        time.sleep(PAUSE_S)
