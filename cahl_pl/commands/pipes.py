"""Programs whose output is read by another one, such as `head`, or cannot be written any more."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

STATUS = 141
"""What shells report for a program that SIGPIPE (13) has ended: 128 + 13."""


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the program silently, with status 141, once nobody reads its standard output any more; also a decorator.

    Not by the signal itself: a server or a worker that goes away while it is written to has to stay an error.
    """
    try:
        try:
            yield
        finally:  # here: at its own end the interpreter would print a traceback
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_broken():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
        sys.exit(STATUS)


def _is_broken() -> bool:
    """Return whether it is standard output that nobody reads."""
    if sys.platform == "win32":  # has no poll
        return False
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # asks for nothing but errors, which are always reported
    except (OSError, ValueError):  # no file of the system's
        return False
    return bool(poll.poll(0))


@contextmanager
def output_may_be_lost() -> Iterator[None]:
    """Have a program go on where what it prints cannot be written: a log on a full disk, or a terminal that is closed.

    For programs whose work is worth more than what they say. A reader that leaves still ends them.
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
    """Return a stream to the same file that loses what the file does not take; one that is no file of the system's as it is."""
    try:
        stream.flush()
        file = _Losing(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


class _Losing(io.FileIO):
    """A file to which writing does not fail, unless it is a pipe that nobody reads."""

    def write(self, data: Any) -> int:
        """Write, or lose it all."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:  # half a line may have been written before: it is for people to read
            return memoryview(data).nbytes
