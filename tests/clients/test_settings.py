"""Where the settings come from."""

from __future__ import annotations

import pytest

from clients.client_settings import DEFAULT_BASE_URL, ClientSettings, Timeouts


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ClientSettings.resolve(None, None, None) == ClientSettings(DEFAULT_BASE_URL)
    monkeypatch.setenv("COMPOSER_BASE_URL", "https://models.example/v1")
    monkeypatch.setenv("COMPOSER_API_KEY", "from-environment")
    settings = ClientSettings.resolve(None, None, None)
    assert (settings.base_url, settings.api_key) == (
        "https://models.example/v1",
        "from-environment",
    )
    explicit = ClientSettings.resolve("http://other/v1", "given", Timeouts(read_s=1.0))
    assert (explicit.base_url, explicit.api_key, explicit.timeout.read) == (
        "http://other/v1",
        "given",
        1.0,
    )


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host", "http://host/v1"),
        ("https://host:8000/", "https://host:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://host/v1", "http://host/v1"),
        ("http://host/team/v1/", "http://host/team/v1/"),
        ("http://host/team", "http://host/team"),
    ],
)
def test_an_address_without_a_path_gets_one(
    monkeypatch: pytest.MonkeyPatch, text: str, url: str
) -> None:
    assert ClientSettings.resolve(text, None, None).base_url == url
    monkeypatch.setenv("COMPOSER_BASE_URL", text)
    assert ClientSettings.resolve(None, None, None).base_url == url


@pytest.mark.parametrize(
    "text", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1", "x"]
)
def test_a_base_url_must_be_one(text: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        ClientSettings(text)


@pytest.mark.parametrize(
    ("host", "proxied"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("[::1]", False),
        ("10.0.0.1", True),
        ("a.b", True),
    ],
)
def test_a_proxy_is_not_asked_for_the_loopback(host: str, proxied: bool) -> None:
    assert ClientSettings(f"http://{host}:8000/v1").uses_proxy is proxied
