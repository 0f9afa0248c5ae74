"""Handling of output that is read by another program, such as `head`, or can no longer be written."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

STATUS = 141
"""Status that shells report for a program ended by SIGPIPE (13): 128 + 13."""


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the program silently, with status 141, once its standard output is no longer read; also a decorator.

    The signal itself is not used: a server or a worker that goes away during a write must stay an error.
    """
    try:
        try:
            yield
        finally:  # here: the interpreter would print a traceback on exit
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_broken():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it again
        sys.exit(STATUS)


def _is_broken() -> bool:
    """Return whether it is standard output that is no longer read."""
    if sys.platform == "win32":  # has no poll
        return False
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # asks for nothing but errors, which are always reported
    except (OSError, ValueError):  # not a system file
        return False
    return bool(poll.poll(0))


@contextmanager
def output_may_be_lost() -> Iterator[None]:
    """Let a program continue when its output cannot be written: a log on a full disk, or a closed terminal.

    For programs whose work is worth more than their output. A reader that leaves still ends them.
    """
    shown = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_losing, shown)
    try:
        yield
    finally:
        lost, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), shown
        for stream in lost:
            stream.flush()


def _losing(stream: TextIO) -> TextIO:
    """Return a stream to the same file that drops output on failure; a stream without a system file is returned unchanged."""
    try:
        stream.flush()
        file = _Losing(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


class _Losing(io.FileIO):
    """File to which writing does not fail, unless it is a pipe that is no longer read."""

    def write(self, data: Any) -> int:
        """Write the data, or drop it all."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:  # half a line may have been written: people can still read it
            return memoryview(data).nbytes
