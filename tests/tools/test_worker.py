"""A program that starts itself again: its figures come back, its failure is told; tools/README.md names every program."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tools import worker

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """import json, os, sys
print("words", [1])
print([1])
print({'train_runtime': 1.5})
print(json.dumps({"arguments": sys.argv[1:], "variable": os.environ.get("OF_A_TEST"), "name": __name__}))
if "fail" in sys.argv:
    sys.exit("no more")
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The `__file__` of a program; it is run from another folder."""
    monkeypatch.setattr(worker, "ROOT", tmp_path)
    file = tmp_path / "tools_of_a_test" / "speed" / "it.py"
    file.parent.mkdir(parents=True)
    file.write_text(PROGRAM)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return str(file)


def test_the_figures_come_back_and_other_lines_are_passed_over(program):
    (figures,) = worker.run_again(program, ["--a", "b c"], "it", {"OF_A_TEST": "1"})
    assert figures == {"arguments": ["--a", "b c"], "variable": "1", "name": "__main__"}
    assert worker.command(program, []) == [sys.executable, "-m", "tools_of_a_test.speed.it"]


def test_a_failure_ends_with_what_it_said(program):
    with pytest.raises(SystemExit, match="error: this one failed:\nno more"):
        worker.run_again(program, ["fail"], "this one")


def test_every_program_has_a_line():
    files = {path.relative_to(ROOT / "tools").with_suffix("") for path in (ROOT / "tools").rglob("*.py")}
    programs = {".".join(path.parts) for path in files if path.stem != "__init__"}
    named = set(re.findall(r"`(\w+(?:\.\w+)?)`", (ROOT / "tools" / "README.md").read_text(encoding="utf-8")))
    assert programs - named == set()
    assert {name for name in named if "." in name} <= programs
