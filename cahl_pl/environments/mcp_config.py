"""File that names MCP servers, in the form shared by assistants and editors: `{"mcpServers": {NAME: {...}}}`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cahl_pl.errors import ConfigError
from cahl_pl.errors.encodings import decoded

_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)\}")
_PROGRAM = ("command", "args", "env", "cwd")
_ADDRESS = ("url", "headers")


@dataclass(frozen=True)
class ServerConfig:
    """Access to one server.

    Attributes:
        name: its name in the file.
        command: the program to start, which communicates over standard input and output; None for a server at a URL.
        args: arguments of the program.
        env: environment variables that the program gets besides a few harmless ones such as PATH.
        cwd: its working directory.
        url: address of a running server, with the transport "streamable HTTP".
        headers: headers of requests to the URL, such as `Authorization`.
    """

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def is_server_file(path: str) -> bool:
    """Return whether a path is that of a JSON file that names MCP servers."""
    if not path.endswith(".json"):
        return False
    try:
        value = json.loads(Path(path).expanduser().read_bytes())  # UTF-16 too, which is reported when it is read
    except (OSError, ValueError, RecursionError):
        return False  # the fault is reported when it is read
    return isinstance(value, dict) and ("mcpServers" in value or isinstance(value.get("servers"), dict))


def read_servers(path: str) -> tuple[ServerConfig, ...]:
    """Return the servers of a file; `${NAME}` in its values is replaced by the environment variable NAME.

    Raises:
        ConfigError: the file cannot be read, names no server, or describes one wrongly.
        DataError: it is not UTF-8.
    """
    try:
        text = decoded(Path(path).expanduser().read_bytes(), path)
    except OSError as error:
        raise ConfigError(f"{path}: the MCP servers cannot be read ({error.strerror}); correct the path") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: the MCP servers are not JSON ({error}); correct the file") from None
    servers = value.get("mcpServers", value.get("servers")) if isinstance(value, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise ConfigError(
            f'{path}: there are no MCP servers; write {{"mcpServers": {{"NAME": {{"command": "PROGRAM"}}}}}}'
        )
    return tuple(_server(name, entry, f"{path}, server {name!r}") for name, entry in servers.items())


def _server(name: str, entry: Any, where: str) -> ServerConfig:
    if not isinstance(entry, dict) or ("command" in entry) == ("url" in entry):
        raise ConfigError(
            f"{where}: give either `command`, a program to start, or `url`, the address of a running server"
        )
    if entry.get("type") == "sse":
        raise ConfigError(
            f"{where}: the transport sse is no longer in use; give the URL of its streamable HTTP transport"
        )
    values: dict[str, Any] = {}
    for key in _PROGRAM if "command" in entry else _ADDRESS:
        if key not in entry:
            continue
        value = entry[key]
        kind, told = _KINDS[key]
        texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{where}: `{key}` must be {told}, not {json.dumps(value)[:80]}")
        if isinstance(value, dict):
            values[key] = {inner: _filled(text, where) for inner, text in value.items()}
        elif isinstance(value, list):
            values[key] = tuple(_filled(text, where) for text in value)
        else:
            values[key] = _filled(str(value), where)
    return ServerConfig(name, **values)


_TEXT, _TEXTS, _OBJECT = (str, "a text"), (list, "a list of texts"), (dict, "an object of texts")
_KINDS: dict[str, tuple[type, str]] = {
    **{"command": _TEXT, "cwd": _TEXT, "url": _TEXT},
    **{"args": _TEXTS, "env": _OBJECT, "headers": _OBJECT},
}


def _filled(text: str, where: str) -> str:
    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{where}: the environment variable {match[1]} is not set; set it, or write its value")
        return os.environ[match[1]]

    return _VARIABLE.sub(variable, text)
