"""Reading one's writes through a balancer: the position of the last change that a client knows."""

from __future__ import annotations

import httpx

HEADER = "X-Composer-Store"
"""Of an answer: where the change stands in the server's store. Of a request: `>=N`."""


class LastChange:
    """Remembers the furthest position of all answers, and asks every server for that much.

    A server that does not know it yet waits a moment, and then answers 503.
    """

    def __init__(self) -> None:
        self.position = 0

    def ask(self, request: httpx.Request) -> None:
        """Put the position into a request."""
        if self.position:
            request.headers[HEADER] = f">={self.position}"

    def learn(self, response: httpx.Response) -> None:
        """Take the position of an answer."""
        told = response.headers.get(HEADER, "")
        if told.isdecimal():
            self.position = max(self.position, int(told))

    async def ask_async(self, request: httpx.Request) -> None:
        """`ask`, for an asynchronous client."""
        self.ask(request)

    async def learn_async(self, response: httpx.Response) -> None:
        """`learn`, for an asynchronous client."""
        self.learn(response)
