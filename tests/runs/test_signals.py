"""SIGTERM while a run does not listen to it yet."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cahl_pl.errors import Interrupted
from cahl_pl.runs.signals import leaving_at_once


def test_it_leaves_at_once_and_gives_back_what_was_there():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped, leaving_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_cannot_listen_and_need_not():
    done = []

    def work():
        with leaving_at_once():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
