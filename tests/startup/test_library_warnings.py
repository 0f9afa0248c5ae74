"""What is silenced, and what is not."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cahl_pl.startup.library_warnings import quiet_libraries

KERNEL = (
    "Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure you already `pip install kernels` and "
    "the kernels >= 0.11.1"
)


def test_the_advice_to_install_a_kernel_that_nothing_uses_is_not_given(capfd):
    code = f"""
import logging
import cahl_pl
logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
logger.warning({KERNEL!r}, "No module named 'kernels'")
logger.warning("the library is broken")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stderr == "the library is broken\n"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("TPU available: False, using: 0 TPU cores", False),
        ("TPU available: True, using: 8 TPU cores", True),
        ("GPU available: False, used: False", True),
        ("try litlogger", False),
    ],
)
def test_notices_of_lightning(message, shown):
    quiet_libraries()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, message, (), None)
    assert bool(logger.filter(record)) == shown
