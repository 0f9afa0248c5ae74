"""Connection to one MCP server, by the protocol's own SDK."""

from __future__ import annotations

import asyncio
import atexit
import logging
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from cahl_pl.environments.mcp_config import ServerConfig
from cahl_pl.errors import ConfigError, SchemaError
from cahl_pl.python_tools.awaiting import in_background
from cahl_pl.python_tools.results import json_text, result_text
from cahl_pl.schema import check_tool
from cahl_pl.schema.drafts import modernised, with_parameters_on_top
from cahl_pl.types import ToolSpec

PING_SECONDS: Final = 5.0
"""Time in which a server that has failed a call has to list its tools; otherwise it counts as lost."""

CLOSE_SECONDS: Final = 15.0
"""Time limit for ending a server: the SDK waits for the program, then kills it, in 7 s at most."""

MAX_PAGES: Final = 100
"""Maximum number of pages of a list of tools to read: a server that always has one more must not stall the run."""


class CallError(Exception):
    """Error that a call has no result; the message is one sentence for the model."""


class McpConnection:
    """Connection to a server, which is started or connected to when needed, and again when it is lost.

    Args:
        config: access to the server.
        start_seconds: time in which it has to be up and list its tools; one at a URL is retried until then.

    Attributes:
        specs: its tools at the time of the first connection.
        refused: its tools that cannot be offered, each a sentence with the reason.
        connections: number of connections made so far.
        start_seconds: as given; may be changed.

    Raises:
        ConfigError: the package `mcp` is missing, or the server cannot be reached or lists no tools.
    """

    def __init__(self, config: ServerConfig, start_seconds: float) -> None:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ConfigError('MCP servers need the package mcp: pip install "cahl-pl[mcp]"') from None
        logging.getLogger("mcp").addFilter(_is_silent)  # faults of a server are reported to the model
        logging.getLogger("mcp.client.stdio").addFilter(_is_silent)
        self.config = config
        self.connections = 0
        self.start_seconds = start_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._errors = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115  (what the program prints)
        try:
            self._connect()
        except BaseException:
            self._errors.close()
            raise
        self.specs: tuple[ToolSpec, ...] = ()
        self.refused: list[str] = []
        for tool in self._listed:
            try:
                self.specs += (_read(tool, f"MCP server {config.name!r}"),)
            except SchemaError as error:
                self.refused.append(str(error))
        _live.add(self)

    def call(self, name: str, arguments: dict[str, Any], seconds: float) -> str:
        """Return a tool's answer, as JSON text.

        Raises:
            CallError: the tool failed, or the server did not answer in time, or answered invalidly.
            ConfigError: the server is lost and does not come back.
        """
        with self._lock:
            if self._client is None:
                self._connect()
            try:
                result = in_background(self._call(name, arguments, seconds))
            except Exception as error:  # from the SDK, pydantic or the transport below: all are the server's fault
                raise CallError(self._after(error, seconds)) from None
        return _text(result)

    def _after(self, error: Exception, seconds: float) -> str:
        """Return the message about a failed call, reconnecting to a lost server."""
        told = (
            f"the tool took longer than {seconds:g} s" if _is_timeout(error) else f"the server failed: {_short(error)}"
        )
        if self._is_alive():
            return told
        self._close()
        self._connect()
        return f"{told}; its server was lost and has been started again" if self.config.command else told

    async def _call(self, name: str, arguments: dict[str, Any], seconds: float) -> Any:
        call = self._client.call_tool(name, arguments, read_timeout_seconds=seconds)
        return await asyncio.wait_for(call, seconds + 1)  # a server could evade the SDK's own limit by reporting progress

    def _is_alive(self) -> bool:
        async def ping() -> None:
            listed = self._client.list_tools(cache_mode="bypass")
            await asyncio.wait_for(listed, PING_SECONDS)

        try:
            in_background(ping())
        except Exception:
            return False
        return True

    def _connect(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while True:
            try:
                in_background(self._open(max(1.0, deadline - time.monotonic())))
            except Exception as error:
                self._close()
                if self.config.url and time.monotonic() + 1 < deadline:  # somebody else has to restart it
                    time.sleep(1)
                    continue
                raise ConfigError(self._cannot(error)) from None
            self.connections += 1
            return

    def _cannot(self, error: Exception) -> str:
        where = self.config.url or " ".join((str(self.config.command), *self.config.args))
        again = " again" if self.connections else ""
        reason = f"no answer in {self.start_seconds:g} s" if _is_timeout(error) else _short(error)
        with suppress(OSError, ValueError):
            self._errors.seek(0)
            said = [line for line in self._errors.read()[-2000:].splitlines() if line.strip()]
            if said and self.config.command:
                reason += f"; it said: {said[-1].strip()[:200]}"
        hint = "; then resume with --ckpt_path last" if self.connections else ""
        return (
            f"the MCP server {self.config.name!r} ({where}) cannot be reached{again} ({reason}): "
            f"{'see that the program runs' if self.config.command else 'start it, or correct the url'}{hint}"
        )

    async def _open(self, seconds: float) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._serve(ready))
        await asyncio.wait_for(ready, seconds)

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        """Keep the connection open, in one task: anything opened in a task has to be closed in it."""
        from mcp import Client

        try:
            async with Client(self._transport()) as client:
                listed, cursor = [], None
                for _ in range(MAX_PAGES):
                    page = await client.list_tools(cursor=cursor, cache_mode="bypass")
                    listed += page.tools
                    cursor = page.next_cursor
                    if cursor is None:
                        break
                self._listed, self._client = listed, client
                if not ready.done():
                    ready.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            self._client = None

    def _transport(self) -> Any:
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client
        from mcp.client.streamable_http import streamable_http_client

        config = self.config
        if config.url is not None:
            if not config.headers:
                return config.url
            import httpx2

            return streamable_http_client(config.url, http_client=httpx2.AsyncClient(headers=dict(config.headers)))
        assert config.command is not None  # one of the two is given
        program = StdioServerParameters(
            command=config.command,
            args=list(config.args),
            env=dict(config.env),
            cwd=config.cwd,
            encoding_error_handler="replace",
        )
        return stdio_client(program, errlog=self._errors)

    def _close(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return

        async def end() -> None:
            self._stop.set()
            done, _ = await asyncio.wait([task], timeout=CLOSE_SECONDS / 3)
            if not done:
                task.cancel()
                await asyncio.wait([task], timeout=CLOSE_SECONDS)

        with suppress(Exception):
            in_background(end())

    def close(self) -> None:
        """End the connection, and the program if it is ours; happens by itself when Python ends."""
        self._close()
        self._errors.close()
        _live.discard(self)


_live: weakref.WeakSet[McpConnection] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for connection in list(_live):
        connection.close()


def _read(tool: Any, where: str) -> ToolSpec:
    """Return the tool that a server declares; `where` begins error messages.

    Raises:
        SchemaError: its parameters are not a schema.
    """
    try:
        parameters = {"type": "object", **modernised(tool.input_schema)}
    except RecursionError:
        parameters = tool.input_schema  # the check reports the fault
    spec = ToolSpec(tool.name, tool.description or "", parameters)
    check_tool(spec, where)
    return replace(spec, parameters=with_parameters_on_top(parameters))


def _is_silent(record: logging.LogRecord) -> bool:
    return False


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or getattr(error, "code", None) == -32001  # the SDK's REQUEST_TIMEOUT


def _short(error: BaseException) -> str:
    """Return the first line of the innermost error of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    first = (str(getattr(error, "message", None) or error).strip().splitlines() or [""])[0].rstrip(".")
    return first[:200] or type(error).__name__


def _text(result: Any) -> str:
    """Return a result as JSON text.

    Raises:
        CallError: it is an error, or cannot be written as JSON.
    """
    parts = [_part(part) for part in result.content]
    text = "\n".join(parts)
    if result.is_error:
        raise CallError(text or "the tool failed")
    structured = result.structured_content
    try:
        if structured is None:
            return result_text(text)
        if isinstance(structured, dict) and structured.keys() == {"result"}:
            structured = structured["result"]  # the SDK wraps anything but objects in this way
        return json_text(structured)
    except (TypeError, ValueError, RecursionError):
        raise CallError("the tool's result cannot be written as JSON") from None


def _part(part: Any) -> str:
    """Return the text of a part of a result; for a picture or a sound, a note that there is one."""
    text = getattr(part, "text", None) or getattr(getattr(part, "resource", None), "text", None)
    if isinstance(text, str):
        return text
    kind = getattr(part, "mime_type", None) or getattr(part, "uri", None) or "unknown"
    return "" if getattr(part, "type", "") == "text" else f"[{getattr(part, 'type', 'something')}: {kind}]"
