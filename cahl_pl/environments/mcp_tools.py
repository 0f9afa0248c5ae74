"""Tools of MCP servers: their descriptions for a model, and their answers to calls."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

from cahl_pl.environments.base import Environment, MissingToolsError, Session, failure, refusal
from cahl_pl.environments.mcp_config import read_servers
from cahl_pl.environments.mcp_connection import CallError, McpConnection
from cahl_pl.errors import ConfigError, ToolWarning
from cahl_pl.schema import coerce_call
from cahl_pl.types import Feedback, Task, ToolCall, ToolSpec


class McpTools:
    """Tools of the servers that a file names; a file's servers are started once per process.

    Args:
        servers: the file; see `cahl_pl.environments.mcp_config.read_servers`.
        start_seconds: time in which each server has to be up.

    Attributes:
        specs: the tools of all servers, in the order of the file.
        connections: tool -> its server.

    Raises:
        ConfigError: the file cannot be used, a server cannot be reached, or two servers have a tool of the same name.
    """

    def __init__(self, servers: str, start_seconds: float = 60.0) -> None:
        self.connections: dict[str, McpConnection] = {}
        specs: list[ToolSpec] = []
        for connection in _connections(servers, start_seconds):
            for spec in connection.specs:
                if (other := self.connections.get(spec.name)) is not None:
                    raise ConfigError(
                        f"{servers}: the servers {other.config.name!r} and {connection.config.name!r} both have a tool "
                        f"{spec.name!r}; name them in files of their own"
                    )
                self.connections[spec.name] = connection
                specs.append(spec)
        if not specs:
            raise ConfigError(f"{servers}: its servers have no tool that can be offered")
        self.specs = tuple(specs)


_started: dict[tuple[Path, int], tuple[McpConnection, ...]] = {}


def _connections(servers: str, start_seconds: float) -> tuple[McpConnection, ...]:
    """Return the connections to a file's servers, existing ones if any: dataset and environment name the same file."""
    configs = read_servers(servers)
    path = Path(servers).expanduser().resolve()
    key = path, path.stat().st_mtime_ns
    if key not in _started:
        connections: list[McpConnection] = []
        try:
            connections += (McpConnection(config, start_seconds) for config in configs)
        except BaseException:
            for connection in connections:
                connection.close()
            raise
        _started[key] = tuple(connections)
        refused = [reason for connection in connections for reason in connection.refused]
        if refused:
            warnings.warn(f"{servers}: not offered as tools: {'; '.join(refused)}", ToolWarning, stacklevel=3)
    for connection in _started[key]:
        connection.start_seconds = start_seconds
    return _started[key]


class McpEnvironment(Environment):
    """Environment that answers calls by the tools of MCP servers.

    A server's fault (an error, no answer in time, an invalid answer, its own end) is the answer to the
    call, with the error `tool`. A program that is lost is started again; a server at a URL is waited for. All episodes
    share the servers, and the changes that calls make in them.

    Args:
        servers: a JSON file that names them as assistants and editors do: `{"mcpServers": {NAME: {"command": ...,
            "args": [...], "env": {...}}}}` for a program to start, `{"url": ..., "headers": {...}}` for a running server.
        call_seconds: time limit of a call.
        start_seconds: time in which a server has to be up, also after it was lost, before the run stops.
        max_characters: longer answers are cut and end with "...".

    Raises:
        ConfigError: a value is out of range, the file cannot be used, or a server cannot be reached.
    """

    runs_tools = True
    tools_option = "servers"

    def __init__(
        self, servers: str, call_seconds: float = 30.0, start_seconds: float = 60.0, max_characters: int = 2000
    ) -> None:
        for name, value, least in (
            ("call_seconds", call_seconds, 0.001),
            ("start_seconds", start_seconds, 0.001),
            ("max_characters", max_characters, 3),
        ):
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        self.tools = McpTools(servers, start_seconds)
        self.tools_source = servers
        self.call_seconds = call_seconds
        self.max_characters = max_characters

    def start(self, task: Task) -> Session:
        """Return a session.

        Raises:
            ConfigError: no server has a tool that the task offers.
        """
        missing = [tool.name for tool in task.tools if tool.name not in self.tools.connections]
        if missing:
            raise MissingToolsError(
                f"task {task.id!r} offers tools that no MCP server has: {missing}; "
                f"they have: {', '.join(self.tools.connections)}",
                missing,
            )
        return _McpSession(self, task)


class _McpSession(Session):
    def __init__(self, environment: McpEnvironment, task: Task) -> None:
        self._environment = environment
        self._task = task

    def call(self, call: ToolCall) -> Feedback:
        refused = refusal(call, self._task)
        if refused is not None:
            return refused
        environment = self._environment
        arguments = copy.deepcopy(dict(coerce_call(call, self._task.tools).arguments))
        try:
            text = environment.tools.connections[call.name].call(call.name, arguments, environment.call_seconds)
            feedback = Feedback(text)
        except CallError as error:
            feedback = failure(str(error), "tool")
        if len(feedback.text) <= environment.max_characters:
            return feedback
        return Feedback(feedback.text[: environment.max_characters - 3] + "...", feedback.error)
