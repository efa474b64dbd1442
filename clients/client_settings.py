"""Where the server is, which key it takes, and how long to wait for it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field

import httpx

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
BASE_URL_VARIABLE = "COMPOSER_BASE_URL"
API_KEY_VARIABLE = "COMPOSER_API_KEY"
ADMIN_KEY_VARIABLE = "COMPOSER_ADMIN_KEY"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `read_s` is the longest silence, not the length of the whole answer.

    Without a stream the server is silent until the answer is complete, hence the generous default.
    """

    connect_s: float = 5.0
    read_s: float = 300.0
    write_s: float = 30.0
    pool_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """A server's address (usually ending in /v1), its API key, and the timeouts."""

    base_url: str = DEFAULT_BASE_URL
    api_key: str | None = field(default=None, repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"base_url '{self.base_url}' is not a URL: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f"base_url '{self.base_url}' must look like {DEFAULT_BASE_URL}: "
                "a scheme (http or https), a host and the path of the API"
            )

    @classmethod
    def resolve(
        cls, base_url: str | None, api_key: str | None, timeouts: Timeouts | None
    ) -> ClientSettings:
        """Return the arguments, else the environment's COMPOSER_BASE_URL and COMPOSER_API_KEY.

        An address without a path gets /v1.
        """
        url = base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL
        return cls(
            f"{url.rstrip('/')}/v1" if re.fullmatch(r"https?://[^/?#]+/?", url) else url,
            api_key or os.environ.get(API_KEY_VARIABLE) or None,
            timeouts or Timeouts(),
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def timeout(self) -> httpx.Timeout:
        limits = self.timeouts
        return httpx.Timeout(
            connect=limits.connect_s,
            read=limits.read_s,
            write=limits.write_s,
            pool=limits.pool_s,
        )

    @property
    def uses_proxy(self) -> bool:
        """Return whether HTTP_PROXY and the like apply: a proxy cannot reach our loopback."""
        host = httpx.URL(self.base_url).host
        if host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return True
