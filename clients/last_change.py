"""Read your writes through a balancer: remember the last change of the store, and ask for it."""

from __future__ import annotations

import httpx

HEADER = "X-Composer-Store"
"""In an answer: position of a change in the server's store, N. In a request: `>=N`."""


class LastChange:
    """The furthest position in any answer; every request asks for at least this one.

    A server that has not read the store that far waits for a moment, and then answers 503.
    """

    def __init__(self) -> None:
        self.position = 0

    def ask(self, request: httpx.Request) -> None:
        """Add the position to a request."""
        if self.position:
            request.headers[HEADER] = f">={self.position}"

    def learn(self, response: httpx.Response) -> None:
        """Remember the position in an answer."""
        position = response.headers.get(HEADER, "")
        if position.isdecimal():
            self.position = max(self.position, int(position))

    async def ask_async(self, request: httpx.Request) -> None:
        """`ask`, for an asynchronous client."""
        self.ask(request)

    async def learn_async(self, response: httpx.Response) -> None:
        """`learn`, for an asynchronous client."""
        self.learn(response)
