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


LONG_WORK = """
import os, sys
from cahl_pl.commands.pipes import output_may_be_lost, reader_may_leave
with reader_may_leave(), output_may_be_lost():
    for number in range(3):
        print("x" * 10_000, flush=True)
        print("warning", file=sys.stderr, flush=True)
        open(sys.argv[1], "a").write(str(number))
sys.exit(7)
"""


def test_work_goes_on_where_its_output_cannot_be_written(tmp_path):
    done = tmp_path / "done"
    with open("/dev/full", "w") as full:
        status = subprocess.run(
            [sys.executable, "-c", LONG_WORK, str(done)], stdout=full, stderr=full, cwd=ROOT
        ).returncode
    assert (status, done.read_text()) == (7, "012")


def test_work_whose_output_can_be_written_says_all_of_it_in_order(tmp_path):
    with open(tmp_path / "log", "w") as log:
        subprocess.run([sys.executable, "-c", LONG_WORK, str(tmp_path / "done")], stdout=log, stderr=log, cwd=ROOT)
    assert (tmp_path / "log").read_text() == ("x" * 10_000 + "\nwarning\n") * 3


def test_a_reader_that_leaves_ends_work_too(tmp_path):
    code = f"import sys; sys.argv[1:] = [{str(tmp_path / 'done')!r}]{LONG_WORK}"
    assert run(code) == (141, "")
    assert not (tmp_path / "done").exists()
