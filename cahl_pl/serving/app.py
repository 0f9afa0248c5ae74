"""HTTP side: access, limits and timeouts; one thread per reply, and one place in the queue that is always released."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cahl_pl.plurals import counted
from cahl_pl.serving.asked import Asked, read_request, unknown_model
from cahl_pl.serving.episode import End, Pair, Part, Reply
from cahl_pl.serving.errors import ApiError
from cahl_pl.serving.wire import Chunks, completion, event, model, models

KEEP_ALIVE_SECONDS: Final = 10.0
"""Time without a part after which a stream gets a comment, so that nothing between here and the client closes it."""

MAX_DEPTH_ERROR: Final = "the body is nested too deeply"


@dataclass(frozen=True)
class Limits:
    """Limits for clients.

    Attributes:
        body_bytes: maximum size of a request's body.
        tokens: maximum tokens sampled for a reply.
        at_once: number of replies made at once.
        queue: number of further replies that may wait.
        seconds: maximum time from a request to the end of its reply.
    """

    body_bytes: int = 4 * 2**20
    tokens: int = 4096
    at_once: int = 16
    queue: int = 64
    seconds: float = 120.0


class Service:
    """Chat API over one pair.

    Args:
        pair: pair that replies.
        name: name of the model.
        limits: limits for clients.
        key: key that clients must give; None for none.
    """

    def __init__(self, pair: Pair, name: str, limits: Limits, key: str | None) -> None:
        self.pair = pair
        self.name = name
        self.limits = limits
        self.started = int(time.time())
        self._key = key
        self._pool = ThreadPoolExecutor(limits.at_once, thread_name_prefix="reply")
        self._busy = 0
        self._running: set[Running] = set()
        self._closing = False

    @property
    def busy(self) -> int:
        """Number of replies being made or waiting."""
        return self._busy

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
        ]
        handlers: dict[Any, Callable[[Request, Any], Response]] = {
            ApiError: _refused,
            HTTPException: _refused_by_starlette,
            Exception: _failed,
        }
        return Starlette(routes=routes, exception_handlers=handlers)

    def close(self) -> None:
        """Take no more requests, and break off the replies in progress, telling their clients."""
        self._closing = True
        for running in list(self._running):
            running.fail(ApiError(503, "the server is being stopped: ask again when it is back", "shutting_down"))

    # --- endpoints ---------------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "busy": self._busy})

    async def _models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse(models(self.name, self.started))

    async def _model(self, request: Request) -> Response:
        self._check_key(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(model(self.name, self.started))

    async def _chat(self, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        self._check_key(request)
        body = await self._body(request, deadline)
        try:
            asked = read_request(body, self.limits.tokens)
            self._check_model(asked.model)
            running = self._begin(asked)
        except RecursionError:
            raise ApiError(400, MAX_DEPTH_ERROR, "invalid_value") from None
        return _Answer(running, f"chatcmpl-{secrets.token_hex(12)}", self.name, asked, deadline, self.limits.seconds)

    # --- access and limits -------------------------------------------------------------------------------------------

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key.encode()):
            raise ApiError(401, "the key is missing or wrong: send Authorization: Bearer KEY", "invalid_api_key")

    def _check_model(self, name: str) -> None:
        if name != self.name:
            raise unknown_model(name, self.name)

    async def _body(self, request: Request, deadline: float) -> Any:
        """Return the body's JSON.

        Raises:
            ApiError: it is not JSON, too long, or arrives too slowly.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # another site's page cannot send that without asking
            raise ApiError(415, "the body must be JSON: send Content-Type: application/json", "unsupported_media_type")
        most, size, parts = self.limits.body_bytes, 0, []
        try:
            async with asyncio.timeout_at(deadline):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise ApiError(413, f"the body has more than the {most} bytes allowed here", "body_too_large")
                    parts.append(part)
        except TimeoutError:
            raise ApiError(408, "the body did not come in time: send it again", "timeout") from None
        except ClientDisconnect:
            raise ApiError(400, "the client has hung up", "client_disconnected") from None
        try:
            return json.loads(b"".join(parts))
        except RecursionError:
            raise ApiError(400, MAX_DEPTH_ERROR, "invalid_json") from None
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {str(error)[:120]}", "invalid_json") from None

    def _begin(self, asked: Asked) -> Running:
        """Start a reply.

        Raises:
            ApiError: there is no place for it, or its dialogue cannot be used.
        """
        if self._closing:
            raise ApiError(503, "the server is being stopped: ask again when it is back", "shutting_down")
        most = self.limits.at_once + self.limits.queue
        if self._busy >= most:
            raise ApiError(
                429, f"{counted(most, 'request')} are being replied to or wait: ask again later", "queue_full"
            )
        running = Running(self.pair, asked, self._end)
        self._busy += 1
        self._running.add(running)
        running.start(self._pool)
        return running

    def _end(self, running: Running) -> None:
        self._busy -= 1
        self._running.discard(running)


class Running:
    """Reply in progress: its parts come from a thread, and are awaited in the loop.

    Args:
        pair: pair that replies.
        asked: the request.
        ended: called in the loop when the place is free again.

    Raises:
        ApiError: the dialogue cannot be used.
    """

    def __init__(self, pair: Pair, asked: Asked, ended: Callable[[Running], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[Part | ApiError] = asyncio.Queue()
        self._ended: Callable[[Running], None] | None = ended
        self.reply = Reply(pair, asked, lambda part: self._hand_over(part))

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Make the reply in a thread."""
        self._made = pool.submit(self._make)

    async def part(self) -> Part:
        """Return the next part.

        Raises:
            ApiError: the reply has failed, so there is none.
        """
        part = await self._parts.get()
        if isinstance(part, ApiError):
            raise part
        return part

    def fail(self, error: ApiError) -> None:
        """Break off the reply with an error for the client."""
        self.leave()
        self._parts.put_nowait(error)

    def leave(self) -> None:
        """Release the place; work still in progress for it is no longer needed."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)
            self._made.cancel()
            self.reply.cancel()

    def _make(self) -> None:
        try:
            self.reply.make()
        except ApiError as error:
            self._hand_over(error)
        except CancelledError:
            self._hand_over(ApiError(503, "the reply was broken off: ask again", "cancelled"))
        except RecursionError:  # from the client's values: nothing else here is deep
            self._hand_over(ApiError(400, MAX_DEPTH_ERROR, "invalid_value"))
        except Exception as error:
            print(f"error: a reply failed: {type(error).__name__}: {error}", flush=True)
            self._hand_over(ApiError(500, f"the reply failed ({type(error).__name__})", "internal_error"))

    def _hand_over(self, part: Part | ApiError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._parts.put_nowait, part)


class _Answer(Response):
    """Answer that is sent while it is made, and given up when its client hangs up.

    The status waits for the first part: an earlier refusal has the status of a refusal, even in a stream.
    """

    def __init__(
        self, running: Running, identity: str, name: str, asked: Asked, deadline: float, seconds: float
    ) -> None:
        self.background = None
        self._running = running
        self._identity = identity
        self._name = name
        self._asked = asked
        self._deadline = deadline
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client hangs up first."""
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            self._running.leave()
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            parts = [await self._part()]
            if self._asked.stream:
                await self._stream(parts[0], send)
                return
            while not isinstance(parts[-1], End):
                parts.append(await self._part())
            response: Response = JSONResponse(completion(self._identity, self._name, parts))
        except ApiError as error:
            response = _refusal(error)
        await response(scope, receive, send)

    async def _stream(self, part: Part, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def write(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        chunks = Chunks(self._identity, self._name, self._asked.include_usage)
        try:
            while True:
                for chunk in chunks.of(part):
                    await write(chunk)
                if isinstance(part, End):
                    break
                part = await self._part(lambda: write(b": still at it\n\n"))
        except ApiError as error:  # the status has already been sent
            await write(event(error.body()))
        await write(b"", more=False)

    async def _part(self, keep_alive: Callable[[], Any] | None = None) -> Part:
        """Return the next part, in time.

        Raises:
            ApiError: the reply has failed, or takes too long.
        """
        loop = asyncio.get_running_loop()
        while True:
            left = self._deadline - loop.time()
            try:
                async with asyncio.timeout(min(left, KEEP_ALIVE_SECONDS) if keep_alive else left):
                    return await self._running.part()
            except TimeoutError:
                if loop.time() >= self._deadline:
                    self._running.leave()
                    raise ApiError(504, f"the reply took longer than {self._seconds:g} s", "timeout") from None
                if keep_alive is not None:
                    await keep_alive()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers())


def _refused(request: Request, error: ApiError) -> Response:
    return _refusal(error)


def _refused_by_starlette(request: Request, error: HTTPException) -> Response:
    told = {404: f"there is no {request.url.path[:80]} here", 405: f"{request.method} is not allowed here"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _refusal(ApiError(error.status_code, told.get(error.status_code, error.detail), code))


def _failed(request: Request, error: Exception) -> Response:
    return _refusal(ApiError(500, f"the request failed ({type(error).__name__})", "internal_error"))
