"""Results that have to be awaited: those of `async def`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cache
from typing import Any, TypeAlias

from cahl_pl.python_tools.results import MAX_ITEMS

Runner: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
"""Function that runs a coroutine to its end and returns its result."""


def finished(result: Any, run: Runner | None = None) -> Any:
    """Return a call's result, awaited if it is a coroutine, an awaitable or an asynchronous generator.

    Args:
        result: the value that the call returned.
        run: function that runs a coroutine; by default on one event loop of this process, which all calls share, so
            that a connection opened by one call serves the next one.
    """
    if inspect.isawaitable(result) or isinstance(result, AsyncIterator):
        return (run or _run)(_waited(result))
    return result


async def _waited(result: Any) -> Any:
    if inspect.isawaitable(result):
        result = await result
    if not isinstance(result, AsyncIterator):
        return result
    items: list[Any] = []
    async for item in result:
        if len(items) == MAX_ITEMS:
            return [*items, "..."]
        items.append(item)
    return items


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_on(_own_loop(), work)
    return in_background(work)  # in a notebook, whose loop is already running


def _run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
    task = loop.create_task(work)
    try:
        return loop.run_until_complete(task)
    finally:
        task.cancel()  # left by an interrupt: it must not continue in the next call


@cache
def _own_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def in_background(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the loop of a thread that all such calls share, and return its result."""
    future = asyncio.run_coroutine_threadsafe(work, background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def background_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of a thread that ends with the program."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="tools", daemon=True).start()
    return loop
