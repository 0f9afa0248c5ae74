"""Protection of the program's own input and folder from a user's tools."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def apart() -> Iterator[None]:
    """Give a user's code no input to wait for, and restore the program's working directory afterwards.

    A run writes to paths that may be relative to it.
    """
    own, folder = sys.stdin, _folder()
    sys.stdin = io.StringIO()
    try:
        yield
    finally:
        sys.stdin = own
        if folder is not None and _folder() != folder:
            os.chdir(folder)


def _folder() -> str | None:
    """Return the program's working directory; None if it no longer exists."""
    try:
        return os.getcwd()
    except OSError:
        return None
