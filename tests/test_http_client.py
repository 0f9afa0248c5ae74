"""JSON over HTTP: retries, refusals in one sentence, and a key that goes to one place only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cahl_pl import http_client as http
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import key_from, post_json

KEY = {"X-API-KEY": "secret-7"}


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds between tries, in place of waiting."""
    seconds = []
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def refused(server, timeout=5.0, retries=0):
    with pytest.raises(ConfigError) as raised:
        post_json(server.url, {}, KEY, timeout, retries)
    assert "secret-7" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)


def test_a_busy_interface_is_asked_again(server, waits):
    server.replies = [(503, {}), (429, {}), (200, {"a": 1})]
    assert post_json(server.url, {"q": "x"}, KEY, 5, 2) == {"a": 1}
    assert [body for _, _, body in server.requests] == [{"q": "x"}] * 3
    assert waits == [1, 2]


def test_a_refusal_is_not_repeated(server):
    server.replies = [(403, {"message": "bad key secret-7"})]
    assert refused(server, retries=3).startswith("127.0.0.1 gave HTTP status 403: check the address, the key")
    assert len(server.requests) == 1


def test_a_redirect_does_not_take_the_key_along(server):
    server.replies = [(302, server.url + "/elsewhere")]
    assert "HTTP status 302" in refused(server)
    assert len(server.requests) == 1


def test_no_answer_in_time_is_named(server):
    server.replies = [(200, {}, 0.5)]
    assert "no answer (TimeoutError)" in refused(server, timeout=0.1)


@pytest.mark.parametrize("reply", [b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_named(server, reply):
    server.replies = [(200, reply)]
    assert "an answer that is not JSON" in refused(server)


def test_the_key_comes_from_the_environment_and_only_goes_out_encrypted(monkeypatch):
    monkeypatch.setenv("THE_KEY", " secret-7 ")
    assert key_from("THE_KEY", "https://host.example/x") == "secret-7"
    assert key_from(None, "http://localhost:1/x") is None
    for address in ("http://host.example/x", "ftp://localhost/x", "host.example"):
        with pytest.raises(ConfigError, match="must start with https"):
            key_from("THE_KEY", address)
    monkeypatch.setenv("THE_KEY", " ")
    with pytest.raises(ConfigError, match=r"the environment variable THE_KEY, .* for host\.example, is not set"):
        key_from("THE_KEY", "https://host.example/x")
