"""Handling of signals while a run does not listen to them itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cahl_pl.errors import Interrupted


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Make SIGTERM end whatever runs at once, with status 143, until something else listens to it.

    Lightning by itself notes it and continues: through a whole evaluation and, if that precedes training, through the first
    step.
    """
    if threading.current_thread() is not threading.main_thread():  # the only one that may
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Interrupted(128 + number)
