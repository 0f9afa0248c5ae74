"""Requests to a server, and the errors that may come back instead of an answer."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from cahl_pl.errors import ConfigError

T = TypeVar("T")

_MAX_REPLY: Final = 256 * 2**20


class Refusal(ConfigError):
    """Refusal by the server of a request that it has understood.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class TryAgain(Exception):
    """Lack of a usable answer; the message says why."""


class Client:
    """Client that sends JSON to one server, once; retries are decided elsewhere (`engines/servers.py`).

    Args:
        base_url: address of the server, with or without `/v1` at its end.
        timeout_s: seconds that one try may take.
        api_key_env: environment variable with the key that the server asks for; None for none.

    Raises:
        ConfigError: the address is invalid, the variable is not set, or the key would go over a network unencrypted.
    """

    def __init__(self, base_url: str, timeout_s: float = 600.0, api_key_env: str | None = None) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1").rstrip("/")
        if "@" in base_url:  # it would appear in every message
            raise ConfigError(
                "data.engine.base_url has a name or a password before its host: leave them out; a key is given by "
                "data.engine.api_key_env"
            )
        if not _is_address(self.url):
            raise ConfigError(f"data.engine.base_url is {base_url!r}: give an address such as http://127.0.0.1:8000")
        self._key = None if api_key_env is None else key_from(api_key_env, self.url)
        self.timeout_s = timeout_s

    def ask(self, path: str, payload: Any, read: Callable[[Any], T]) -> T:
        """Send a payload and read the answer.

        Args:
            path: the path below the address.
            payload: JSON value; None to get without sending any.
            read: function that turns the answer's JSON into a value; raises ConfigError if it is wrong, or `TryAgain`.

        Raises:
            TryAgain: there is no answer, or one that says to try again.
            Refusal: the server refuses.
            ConfigError: it does not answer with JSON.
        """
        return read(_json(self._send(path, payload)))

    def tell(self, path: str, payload: Any) -> None:
        """Send a payload; any answer but a refusal means that it was received. Raises as `ask`."""
        self._send(path, payload)

    def _send(self, path: str, payload: Any) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        body = None if payload is None else json.dumps(payload).encode()
        try:
            with OPENER.open(urllib.request.Request(self.url + path, body, headers), timeout=self.timeout_s) as reply:
                return self._body(reply)
        except urllib.error.HTTPError as error:
            with error:
                said = f"HTTP status {error.code}{self._reason(error)}"
                if error.code in BUSY:
                    raise TryAgain(said) from None
                raise Refusal(
                    f"the server {self.url} refuses {path}: {said}{_remedy(error.code)}", error.code
                ) from None
        except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and broken connections
            self._check_encryption(getattr(error, "reason", error))
            raise TryAgain(f"no answer ({type(getattr(error, 'reason', error)).__name__})") from None

    def _check_encryption(self, error: object) -> None:
        """Refuse a server that cannot be reached by https however often one tries.

        Raises:
            ConfigError: it has a certificate that is not trusted here, or none.
        """
        if isinstance(error, ssl.SSLCertVerificationError):
            raise ConfigError(
                f"the server {self.url} has a certificate that is not trusted here ({error.verify_message}): name its "
                "authority's file in the environment variable SSL_CERT_FILE, and the server as its certificate does"
            ) from None
        if isinstance(error, ssl.SSLError) and error.reason in _NOT_ENCRYPTED:
            raise ConfigError(
                f"the server {self.url} does not speak https: give data.engine.base_url with http://"
            ) from None

    def _body(self, reply: Any) -> bytes:
        """Return the whole reply, unless it comes in too slowly or is too long to be one."""
        deadline, parts, size = time.monotonic() + self.timeout_s, [], 0
        while part := reply.read1(2**20):
            parts.append(part)
            size += len(part)
            if time.monotonic() > deadline:
                raise TimeoutError
            if size > _MAX_REPLY:
                raise ConfigError(
                    f"the server {self.url} sends an answer of more than {_MAX_REPLY} bytes: is it the right one?"
                )
        return b"".join(parts)

    def _reason(self, error: urllib.error.HTTPError) -> str:
        """Return the server's reason for its refusal, on one line of plain characters."""
        try:
            said = json.loads(error.read(2**16))
            said = said.get("error", said)
            text = str(said["message"] if isinstance(said, dict) else said)
        except Exception:  # whatever it says, it has refused
            return ""
        if self._key is not None:
            text = text.replace(self._key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return f" ({text[:300]})"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0 and not parts.query
        return parts.scheme in ("http", "https") and whole and _is_plain(url)
    except ValueError:
        return False


def _is_plain(text: str) -> bool:
    """Return whether these are characters that an address or a header may contain."""
    return text.isascii() and text.isprintable() and " " not in text


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "; name the environment variable that holds its key in data.engine.api_key_env"
    return "; it sends on to another address: give that one as data.engine.base_url" if 300 <= status < 400 else ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ConfigError(
            "the server's answer is not JSON: is data.engine.base_url an OpenAI-compatible server?"
        ) from None


_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_NOT_ENCRYPTED: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""OpenSSL's names, by version, for an unencrypted answer."""
_MAX_JSON_REPLY: Final = 4 * 2**20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect, which would send the key on to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _DirectHere(urllib.request.ProxyHandler):
    """Handler that bypasses proxies for this machine's servers: they would look on their own, and see an unencrypted key."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if urlsplit(req.full_url).hostname in _LOCAL:
            return None
        return super().proxy_open(req, proxy, type)


def make_opener() -> urllib.request.OpenerDirector:
    """Return an opener that follows no redirect and asks this machine's servers without the environment's proxy."""
    return urllib.request.build_opener(_NoRedirect, _DirectHere)


OPENER: Final = make_opener()


def key_from(variable: str | None, url: str) -> str | None:
    """Return the key in an environment variable; None for no variable.

    Raises:
        ConfigError: the variable is not set, or the address would send the key over the network unencrypted.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise ConfigError(f"the address {url!r} must start with https:// (http:// only for this machine)")
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {variable}, which is to hold the key for {parts.hostname}, is not set"
        )
    if not _is_plain(key):
        raise ConfigError(
            f"the environment variable {variable} holds spaces, line breaks or letters with accents, which no key has: "
            "set it again"
        )
    return key


def post_json(url: str, payload: Any, headers: Mapping[str, str], timeout: float, retries: int) -> Any:
    """Send JSON, get JSON.

    Args:
        url: the address.
        payload: JSON values.
        headers: further headers, including a key; no message shows them.
        timeout: seconds for one try.
        retries: further tries, after 1, 2, 4, ... seconds, if the other side is busy or does not answer.

    Raises:
        ConfigError: the other side refuses, does not answer, or answers with something other than JSON.
    """
    host = urlsplit(url).hostname
    body = json.dumps(payload).encode()
    problem = ""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(2 ** (attempt - 1))
        request = urllib.request.Request(url, body, {**headers, "Content-Type": "application/json"})
        try:
            with OPENER.open(request, timeout=timeout) as reply:
                return json.loads(reply.read(_MAX_JSON_REPLY))
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
            error.close()
            if error.code not in BUSY:
                break
        except (ValueError, RecursionError):
            problem = "an answer that is not JSON"
            break
        except OSError as error:  # URLError, timeouts and broken connections
            problem = f"no answer ({type(getattr(error, 'reason', error)).__name__})"
    raise ConfigError(
        f"{host} gave {problem}: check the address, the key and the network, then start the same command again; what has been "
        "recorded is not run again"
    )
