from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.environments import ExecutableEnvironment, PythonTools, PythonToolsEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall

MODULE = '''
from __future__ import annotations
from dataclasses import dataclass
from math import sqrt
from typing import Literal

@dataclass
class Box:
    n: int = 0

def convert(amount: float, unit: Literal["km", "mile"], digits: int | None = None) -> float:
    """Convert a distance.

    Args:
        amount: How far.
        unit: Its unit.
        digits: To round to.
    """
    return round(amount / 1.609344 if unit == "km" else amount * 1.609344, digits)

def note(text: str, state: dict) -> int:
    """Write a note; returns how many there are.

    Args:
        text: The note.
    """
    if not text:
        raise ValueError("empty note")
    state.setdefault("notes", []).append(text)
    return len(state["notes"])

def _helper(x): ...
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "my_tools.py"
    path.write_text(MODULE)
    return path


def test_functions_become_tools(path: Path) -> None:
    convert, note = PythonTools(str(path)).specs
    assert (convert.name, convert.description) == ("convert", "Convert a distance.")
    assert convert.parameters == {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "description": "How far."},
            "unit": {"type": "string", "enum": ["km", "mile"], "description": "Its unit."},
            "digits": {"type": ["integer", "null"], "description": "To round to."},
        },
        "required": ["amount", "unit"],
    }
    assert note.parameters == {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "The note."}},
        "required": ["text"],
    }
    assert [tool.name for tool in PythonTools(str(path), ["note"]).specs] == ["note"]


def test_calls_are_run_on_the_sessions_own_state(path: Path) -> None:
    environment = PythonToolsEnvironment(str(path))
    assert isinstance(environment, ExecutableEnvironment)
    task = Task("t", (Message("user", "q"),), PythonTools(str(path)).specs, state={"notes": ["old"]})

    def answer(session: Any, name: str, **arguments: Any) -> tuple[Any, str | None]:
        feedback = session.call(ToolCall(name, arguments))
        return json.loads(feedback.text), feedback.error

    session = environment.start(task)
    assert answer(session, "convert", amount="10", unit="km", digits=2) == (6.21, None)
    assert answer(session, "note", text="a") == (2, None)
    assert answer(session, "note", text="b") == (3, None)
    assert answer(environment.start(task), "note", text="a") == (2, None)
    assert answer(session, "note", text="") == ({"error": "empty note"}, "tool")
    assert answer(session, "convert", amount=1, unit="m")[1] == "type"
    assert answer(session, "note", text="a", state={})[1] == "undeclared"
    assert task.state == {"notes": ["old"]}
    without = Task("t", (Message("user", "q"),), task.tools)
    assert answer(environment.start(without), "note", text="a") == (1, None)


def test_modules_by_name(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    assert [tool.name for tool in PythonTools("my_tools").specs] == ["convert", "note"]


FUNCTION = 'def f({}):\n    """Do it.\n\n    Args:\n        x: it\n    """\n'


@pytest.mark.parametrize(
    ("source", "functions", "message"),
    [
        (MODULE, ["convrt"], r"my_tools\.py has no function 'convrt'; did you mean convert\?"),
        (MODULE, ["zzz"], "has no function 'zzz'; its functions are: convert, note"),
        (MODULE, ["Box"], "has no function 'Box'"),
        ("x = 1", None, "defines no public function with a docstring; write one"),
        ("def f(x:", None, r"cannot be imported \('\(' was never closed"),
        ("import none_such", None, "the package 'none_such' is not installed; pip install none-such"),
        (
            "def f(x: int):\n    pass",
            None,
            r"defines no public function with a docstring \(f without one\); write one, with type hints",
        ),
        ("def f(x: int):\n    pass", ["f"], "function f: it has no docstring that says what it does"),
        (FUNCTION.format("x"), None, "function f: the parameter 'x' has no type hint; write one, such as `str`"),
        (
            FUNCTION.format("x").replace("x: it", "x (some thing): it"),
            None,
            "the parameter 'x' has no type hint, and 'some thing' in the docstring is no type",
        ),
        (
            "from collections.abc import Callable\n" + FUNCTION.format("x: Callable[[], int]"),
            None,
            r"function f: the parameter 'x' cannot be given as JSON: the type hint .*Callable.* has no JSON Schema; use types",
        ),
        (
            FUNCTION.format("x: 'Nope'"),
            None,
            r"function f: the parameter 'x' has a type hint that cannot be read \(name 'Nope' is not defined\)",
        ),
        (
            "import torch\n" + FUNCTION.format("x: torch.Tensor"),
            None,
            "function f: the parameter 'x' cannot be given as JSON: the type hint Tensor has no JSON Schema",
        ),
        (
            "from builtins import max\n__all__ = ['max']\n",
            None,
            "function max: its parameters are not known to Python",
        ),
    ],
)
def test_what_cannot_be_a_tool_is_one_sentence(path: Path, source: str, functions: Any, message: str) -> None:
    path.write_text(source)
    with pytest.raises(ConfigError, match=message) as error:
        PythonToolsEnvironment(str(path), functions)
    assert "\n" not in str(error.value)


def test_missing_modules() -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'none\.py' of Python tools"):
        PythonTools("none.py")
    with pytest.raises(ConfigError, match=r"the module 'none_such\.tools' of Python tools cannot be imported"):
        PythonTools("none_such.tools")


def test_modules_that_exit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "exiting_tools.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in (str(tmp_path / "exiting_tools.py"), "exiting_tools"):
        with pytest.raises(ConfigError, match=r"cannot be imported \((?:line 1: )?it exits when it is imported\)"):
            PythonTools(module)


def test_functions_in_a_wrapper_are_offered(tmp_path: Path) -> None:
    path = tmp_path / "cached_tools.py"
    path.write_text(
        "import functools\nfrom unittest.mock import call\n\n@functools.cache\ndef double(n: int) -> int:\n"
        '    """Double a number.\n\n    Args:\n        n: The number.\n    """\n    return 2 * n\n'
    )
    tools = PythonTools(str(path))
    (double,) = tools.specs
    assert (double.name, double.description) == ("double", "Double a number.")
    assert double.parameters["properties"] == {"n": {"type": "integer", "description": "The number."}}
    assert tools(None)["double"](n=4) == 8
