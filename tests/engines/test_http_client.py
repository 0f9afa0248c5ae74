"""Requests to a server: tried again while it is away, refusals in one sentence, and a key that nobody sees."""

from __future__ import annotations

import math
import ssl
import urllib.error
from types import SimpleNamespace

import pytest

from cahl_pl.engines.servers import Servers
from cahl_pl.errors import ConfigError
from cahl_pl.http_client import Client, Refusal, make_opener


def ask(servers, count=1):
    return servers.ask("/v1/x", [{"number": i} for i in range(count)], lambda answer: answer["a"])


def one(url, **settings):
    return Servers([url], **settings)


@pytest.fixture(autouse=True)
def _no_waiting(waits):
    pass


def test_only_what_was_not_answered_is_sent_again_and_each_try_is_said(fake, waits, capsys):
    fake.script = [(503, b""), (200, {"a": 1}), (429, {"error": {"message": "too\x1b many"}}), (200, {"a": 1})]
    fake.script += [(200, {"a": 1})]
    assert ask(one(fake.url, concurrency=1), 3) == [1, 1, 1]
    assert [body["number"] for _, body in fake.requests] == [0, 0, 1, 1, 2]
    assert waits == pytest.approx([1.0, 1.0], abs=0.5)  # each time anew: it had answered in between
    said = [f"server {fake.url}: HTTP status 503; try 2 of 9 in 1 s", f"server {fake.url}: back"]
    said += [f"server {fake.url}: HTTP status 429 (too many); try 2 of 9 in 1 s", f"server {fake.url}: back"]
    assert capsys.readouterr().out.splitlines() == said


def test_a_server_that_stays_away_ends_in_one_sentence(waits, capsys):
    with pytest.raises(
        ConfigError, match=r"no answer \(ConnectionRefusedError\), 9 times: start it again .* --ckpt_path last"
    ):
        ask(one("http://127.0.0.1:1"))
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.9)
    assert capsys.readouterr().out.count("; try ") == 8


def test_a_slow_server_is_asked_again(fake):
    fake.script = [0.5, (200, {"a": 2})]
    with pytest.raises(ConfigError, match="no answer"):
        ask(one(fake.url, timeout_s=0.1, retries=0))


def test_a_refusal_is_not_repeated_and_says_why(fake, waits):
    fake.script = [(400, {"error": {"message": "maximum context\nlength is 8"}})]
    with pytest.raises(Refusal, match=r"refuses /v1/x: HTTP status 400 \(maximum context length is 8\)$") as raised:
        ask(one(fake.url))
    assert raised.value.status == 400
    assert waits == []


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_what_is_not_json_is_named(fake, body):
    fake.script = [(200, body)]
    with pytest.raises(ConfigError, match="the server's answer is not JSON"):
        ask(one(fake.url))


@pytest.mark.parametrize("body", [b"", b"[" * 70_000, b'{"error": 1}', b'{"message": ["x"]}', b"7"])
def test_a_refusal_in_any_words_is_a_refusal(fake, body):
    fake.script = [(401, body)]
    with pytest.raises(Refusal, match="HTTP status 401"):
        ask(one(fake.url))


def test_the_key_comes_from_the_environment_and_is_in_no_message(fake, monkeypatch):
    monkeypatch.setenv("THE_KEY", "secret-7")
    fake.script = [(401, {"message": "wrong key secret-7"})]
    with pytest.raises(Refusal, match=r"wrong key \*\*\*"):
        ask(one(fake.url, api_key_env="THE_KEY"))
    assert fake.headers[0]["Authorization"] == "Bearer secret-7"
    with pytest.raises(ConfigError, match="must start with https"):
        Client("http://host.example", api_key_env="THE_KEY")
    Client("http://host.example/v1")  # without a key the choice is the user's


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:8000",
        "ftp://x",
        "http://[",
        "http://x:y",
        "http://",
        "http://h\u00f6st",
        "http://h/a b",
        "http://h/?a=b",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"base_url is .*: give an address"):
        Client(address)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"leave them out; .*api_key_env") as raised:
        Client("http://me:secret@host:8000")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["a\nb", "schl\u00fcssel", "a b"])
def test_a_key_that_no_header_takes_is_refused_and_not_repeated(monkeypatch, key):
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(ConfigError, match="THE_KEY holds spaces") as raised:
        Client("http://127.0.0.1", api_key_env="THE_KEY")
    assert key not in str(raised.value)


def test_this_machine_is_asked_without_the_proxy_and_others_with_it(fake, serve, monkeypatch):
    asked = []
    proxy = serve(lambda path, headers, body: (asked.append(path), (200, {"a": 1}))[1])
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr("cahl_pl.http_client.OPENER", make_opener())
    fake.script = [(200, {"a": 2})]
    assert Client(fake.url).ask("/v1/x", None, lambda answer: answer) == {"a": 2}
    assert asked == []
    assert Client("http://host.invalid").ask("/v1/x", None, lambda answer: answer) == {"a": 1}
    assert asked == ["http://host.invalid/v1/x"]


def test_a_server_without_https_is_named_at_once(fake, waits):
    with pytest.raises(ConfigError, match=r"does not speak https: give data\.engine\.base_url with http://"):
        ask(one(fake.url.replace("http:", "https:")))
    assert waits == []


def test_a_certificate_that_nobody_trusts_is_named_at_once(waits, monkeypatch):
    def untrusted(*args, **kwargs):
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise urllib.error.URLError(error)

    monkeypatch.setattr("cahl_pl.http_client.OPENER", SimpleNamespace(open=untrusted))
    with pytest.raises(ConfigError, match=r"not trusted here \(self-signed certificate\): .* SSL_CERT_FILE"):
        ask(one("https://host.invalid"))
    assert waits == []


@pytest.mark.parametrize(("status", "remedy"), [(401, "data.engine.api_key_env"), (302, "as data.engine.base_url")])
def test_a_refusal_that_can_be_helped_says_how(fake, status, remedy):
    fake.script = [(status, "http://host.invalid/")]
    with pytest.raises(Refusal, match=rf"HTTP status {status}.*; .*{remedy}$"):
        ask(one(fake.url))


def test_of_several_servers_the_one_whose_answer_is_none_is_named_at_the_start(fake, serve):
    page = serve(lambda path, headers, body: (200, b"<html>"))
    with pytest.raises(ConfigError, match=f"^{page}: the server's answer is not JSON"):
        Servers([fake.url, page]).prepare_all(lambda client, again: client.ask("/v1/models", None, lambda answer: None))


@pytest.mark.parametrize("urls", [[], ["http://x:1", "http://x:1/v1/"]])
def test_no_address_and_one_twice_are_refused(urls):
    with pytest.raises(ConfigError, match="give one address or more, each once"):
        Servers(urls)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e12])
def test_numbers_out_of_range_are_refused(seconds):
    with pytest.raises(ConfigError, match="timeout_s > 0"):
        Servers(["http://x"], timeout_s=seconds)
