"""Programs whose output is read by another one, such as `head`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
