"""Programs whose reader goes away before they have said everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cahl_pl.commands.pipes import reader_may_leave

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path for path in (ROOT / "tools").rglob("*.py") if 'if __name__ == "__main__":' in path.read_text())
NEEDS_NOTHING = {"dependencies.py"}
"""Run by a Python that has not installed the package yet."""


def run(code: str) -> tuple[int, str]:
    """Exit status of a program whose output nobody reads, and what it says about that."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize("told", ["print('x')", "print('x' * 100_000)", "import sys; print('x'); sys.exit(3)"])
def test_a_reader_that_has_left_is_no_error(told):
    code = f"from cahl_pl.commands.pipes import reader_may_leave\nwith reader_may_leave():\n    {told}"
    assert run(code) == (141, "")
    status, error = run(told)
    assert status == 1 or "BrokenPipeError" in error  # what it is without


def test_another_pipe_that_breaks_stays_an_error(capsys):
    with pytest.raises(BrokenPipeError, match="server"), reader_may_leave():
        raise BrokenPipeError("server")


def test_what_a_program_ends_with_is_left_alone():
    with pytest.raises(SystemExit) as stopped, reader_may_leave():
        sys.exit(3)
    assert stopped.value.code == 3


@pytest.mark.parametrize("path", [path for path in TOOLS if path.name not in NEEDS_NOTHING], ids=lambda path: path.name)
def test_every_tool_may_be_cut_off(path):
    text = path.read_text()
    entry = re.search(r'if __name__ == "__main__":(?:\n.*)*?\n +(?:sys\.exit\()?(\w+)\(', text)
    assert entry is not None
    assert f"@reader_may_leave()\ndef {entry[1]}(" in text or "with reader_may_leave():\n        main()\n" in text


def test_the_command_line_may_be_cut_off():
    status, error = run("import sys; sys.argv[1:] = ['fit', '--help']; from cahl_pl.commands import console; console()")
    assert (status in (0, 141), error) == (True, "")  # argparse passes over what it cannot print
