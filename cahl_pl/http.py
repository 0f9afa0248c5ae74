"""JSON over HTTP, with a key that goes to the one place it is meant for and nowhere else."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cahl_pl.errors import ConfigError

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
_MAX_REPLY: Final = 4 * 2**20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key on to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


OPENER: Final = urllib.request.build_opener(_NoRedirect)
"""Follows no redirect."""


def key_from(variable: str | None, url: str) -> str | None:
    """The key in an environment variable; None for no variable.

    Raises:
        ConfigError: the variable is not set, or the address would take the key over the network in clear.
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
    return key


def post_json(url: str, payload: Any, headers: Mapping[str, str], timeout: float, retries: int) -> Any:
    """Send JSON, get JSON.

    Args:
        url: the address.
        payload: JSON values.
        headers: further headers, a key among them; they stand in no message.
        timeout: seconds for one try.
        retries: further tries, after 1, 2, 4, ... seconds, where the other side is busy or does not answer.

    Raises:
        ConfigError: the other side refuses, does not answer, or answers with something else than JSON.
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
                return json.loads(reply.read(_MAX_REPLY))
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
