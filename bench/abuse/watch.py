"""Measure how long others wait during an attack, with two probes in a process of their own."""

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
    """Longest waits since `reset`, for the event loop and for the engine."""

    def __init__(self, longest: list[Synchronized[float]], counts: list[Synchronized[int]]) -> None:
        self._longest = longest
        self._counts = counts

    def reset(self) -> None:
        """Forget completed waits; a wait in progress still counts."""
        for value in self._longest:
            value.value = 0.0

    def longest(self) -> tuple[float, float]:
        """Return the longest wait in seconds for `/live` and for a plain request of one token.

        Waits until a probe that began after this call has ended; returns infinity if none does.
        """
        begin = time.monotonic()
        before = [count.value for count in self._counts]
        while any(now.value < then + 2 for now, then in zip(self._counts, before, strict=True)):
            if time.monotonic() - begin > PATIENCE_S:
                return (float("inf"), float("inf"))
            time.sleep(PAUSE_S)
        live, engine = (value.value for value in self._longest)
        return live, engine


@contextmanager
def watching(port: int) -> Iterator[Watch]:
    """Probe the server at `port` of the loopback address until the end of the block."""
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
        except OSError:  # the server is gone, which the claim notices by itself
            time.sleep(1)
            continue
        finally:
            connection.close()
        longest.value = max(longest.value, time.monotonic() - begin)
        count.value += 1
        time.sleep(PAUSE_S)
