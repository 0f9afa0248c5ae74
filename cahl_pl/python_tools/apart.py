"""The program's own things, kept from what a user's tools do to them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def apart() -> Iterator[None]:
    """Give a user's code no input to wait for, and have the program's folder be afterwards what it was.

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
    """Return the folder that the program is in; None where that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None
