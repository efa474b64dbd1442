"""A relay between a browser and a server, which a test can cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit


class Relay:
    """Passes connections on to a server. `cut()` ends all of them; while `is_open` is false, new
    ones are closed as soon as they come. A connection is cut by itself after `limit` bytes from the
    client, or `answer_limit` from the server; with `stalls` it stays, and passes no more of the
    answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._closed = threading.Event()
        self.is_open = True
        self.stalls = False
        self.limit: int | None = None
        self.answer_limit: int | None = None
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, in the middle of whatever they carry."""
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Accept no more connections, and end those that there are."""
        self._listener.close()
        self._closed.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener has been closed
                return
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(self._upstream)
            self._sockets |= {client, server}
            for arguments in (
                (client, server, lambda: self.limit),
                (server, client, lambda: self.answer_limit),
            ):
                threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    def _pass(
        self, source: socket.socket, sink: socket.socket, limit: Callable[[], int | None]
    ) -> None:
        passed = 0
        with suppress(OSError):  # one side has gone
            while data := source.recv(1 << 16):
                if (most := limit()) is not None:
                    passed += len(data)
                    if passed > most:
                        if self.stalls:
                            self._closed.wait()
                        break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._sockets.discard(each)
            each.close()
