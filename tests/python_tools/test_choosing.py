from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cahl_pl.environments import PythonTools, PythonToolsEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall

MODULE = '''
from random import randint
from os.path import join
from textwrap import dedent as cut

class Desk:
    def ask(self, text: str) -> str:
        """Ask."""
        return text

desk = Desk()
ask = desk.ask

def add(a: int, b: int) -> int:
    """Add."""
    return a + b

def helper(x):
    return x

def _private(x: int) -> int:
    """Hide."""
    return x
'''


DECORATED = '''
class FunctionTool:
    def __init__(self, function):
        self.name, self.description, self.func = function.__name__, function.__doc__, function

@FunctionTool
def weather(city: str) -> str:
    """Say the weather."""
    return city

def plain(a: int) -> int:
    """Give it back."""
    return a
'''


def test_an_object_in_the_place_of_a_function_is_no_silent_loss(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DECORATED)
    module = str(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match=r"weather is an object of .*FunctionTool, .* leave the decorator out, or .*\.func"):
        PythonTools(module)
    assert [spec.name for spec in PythonTools(module, ["plain"]).specs] == ["plain"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_tools.py"


def test_documented_functions_of_the_module_itself(path: Path) -> None:
    path.write_text(MODULE)
    with pytest.warns(UserWarning, match=r"my_tools\.py: functions without a docstring are not offered: helper$"):
        tools = PythonTools(str(path))
    assert [spec.name for spec in tools.specs] == ["ask", "add"]


def test_a_list_decides(path: Path) -> None:
    path.write_text(MODULE + "\n__all__ = ['Desk', 'add', '_private']\n")
    assert [spec.name for spec in PythonTools(str(path)).specs] == ["add", "_private"]
    assert [spec.name for spec in PythonTools(str(path), ["ask"]).specs] == ["ask"]


def test_a_list_may_name_what_is_imported_but_not_what_is_missing(path: Path) -> None:
    path.write_text(MODULE + "\n__all__ = ['cut', 'ad', 'zzz']\n")
    with pytest.raises(
        ConfigError,
        match=r"my_tools\.py has no function 'ad'; did you mean add\?; .*'zzz'; its functions are: ask, add, helper",
    ):
        PythonTools(str(path))
    path.write_text(MODULE + "\n__all__ = ['cut']\n")
    with pytest.raises(ConfigError, match="function cut: the parameter 'text' has no type hint"):
        PythonTools(str(path.rename(path.with_name("others.py"))))


def test_all_faults_are_told_at_once(path: Path) -> None:
    path.write_text(
        'def f(a, b: "Nope", c: int):\n    """F."""\n\ndef g(x: type):\n    """G."""\n\ndef h(y) -> int:\n    """H."""\n'
        'def good(z: int) -> int:\n    """Good."""\n'
    )
    with pytest.raises(ConfigError) as error:
        PythonTools(str(path))
    text = str(error.value)
    for part in (
        "function f: the parameter 'a' has no type hint",
        "function f: the parameter 'b' has a type hint that cannot be read (name 'Nope' is not defined)",
        "function g: the parameter 'x' cannot be given as JSON",
        "function h: the parameter 'y' has no type hint",
        "can be left out by listing the others in __all__",
    ):
        assert part in text
    assert "good" not in text
    assert "\n" not in text


SHARED = '''
orders = []
count = 0
class Shop:
    sold = {}
LIMIT = 3

def order(item: str) -> list[str]:
    """Order."""
    global count
    count += 1
    orders.append(item)
    Shop.sold[item] = 1
    return orders

def keep(item: str, kept: list[str] = []) -> list[str]:
    """Keep."""
    kept.append(item)
    return kept

def look(item: str) -> int:
    """Look."""
    return LIMIT
'''


def test_what_episodes_share_is_told_once(path: Path, recwarn) -> None:
    path.write_text(SHARED)
    environment = PythonToolsEnvironment(str(path))
    task = Task("t", (Message("user", "q"),), PythonTools(str(path)).specs)
    assert environment.start(task).call(ToolCall("look", {"item": "a"})).text == "3"
    environment.start(task).call(ToolCall("order", {"item": "a"}))
    assert not recwarn
    with pytest.warns(
        UserWarning, match=r"calls have changed orders, count, Shop\.sold, which all episodes share"
    ) as told:
        second = environment.start(task)
    assert len(told) == 1
    assert json.loads(second.call(ToolCall("order", {"item": "b"})).text) == ["a", "b"]
    environment.start(task)
    assert not recwarn


def test_a_default_that_calls_change_is_shared_too(path: Path) -> None:
    path.write_text(SHARED)
    environment = PythonToolsEnvironment(str(path))
    task = Task("t", (Message("user", "q"),), PythonTools(str(path)).specs)
    environment.start(task).call(ToolCall("keep", {"item": "a"}))
    with pytest.warns(UserWarning, match="calls have changed a default of keep, which"):
        environment.start(task)


def test_an_asynchronous_tool_is_run_within_a_running_loop_too(path: Path) -> None:
    path.write_text(
        'import asyncio\nasync def nap(n: int) -> int:\n    """Nap."""\n    await asyncio.sleep(0)\n    return n\n'
    )
    session = PythonToolsEnvironment(str(path)).start(Task("t", (Message("user", "q"),), PythonTools(str(path)).specs))

    async def notebook() -> str:
        return session.call(ToolCall("nap", {"n": 4})).text

    assert asyncio.run(notebook()) == "4"
    assert session.call(ToolCall("nap", {"n": 5})).text == "5"
