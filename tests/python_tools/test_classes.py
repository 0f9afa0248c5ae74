"""Classes whose methods are tools: which are, what a model reads of them, and an instance for each session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cahl_pl.environments import PythonTools, PythonToolsEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall

SHOP = '''
class Base:
    def ping(self) -> str:
        """Say that it is there."""
        return "pong"


class Shop(Base):
    def __init__(self, stock: dict[str, int] | None = None):
        self.stock = dict(stock or {"nut": 3})

    def take(self, part: str, number: int = 1) -> int:
        """Take parts.

        Args:
            part (str): Which.
            number (int): How many.
        """
        self.stock[part] -= number
        return self.stock[part]

    @staticmethod
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @classmethod
    def kind(cls) -> str:
        """Say what it is."""
        return cls.__name__

    async def later(self, part: str) -> int:
        """Look later."""
        return self.stock[part]

    @property
    def size(self) -> int:
        """The number of parts."""
        return len(self.stock)

    def undocumented(self):
        return 1

    def _hidden(self) -> int:
        """Not for models."""
        return 2


class Other:
    def lonely(self, x) -> int:
        """Be lonely."""
        return x
'''


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "shop.py").write_text(SHOP)
    return str(tmp_path / "shop.py")


def session(environment: PythonToolsEnvironment, tools: Any, state: Any = None) -> Any:
    return environment.start(Task("t", (Message("user", "go"),), tools.specs, state=state))


@pytest.mark.filterwarnings("ignore:.*without a docstring")
def test_public_methods_with_a_docstring_are_tools(path: str) -> None:
    tools = PythonTools(f"{path}:Shop")
    assert [tool.name for tool in tools.specs] == ["ping", "take", "add", "kind", "later"]
    assert tools.specs[1].parameters == {
        "type": "object",
        "properties": {
            "part": {"type": "string", "description": "Which."},
            "number": {"type": "integer", "default": 1, "description": "How many."},
        },
        "required": ["part"],
    }


@pytest.mark.filterwarnings("ignore:.*without a docstring")
def test_each_session_has_an_instance_of_its_own(path: str) -> None:
    tools, environment = PythonTools(f"{path}:Shop"), PythonToolsEnvironment(f"{path}:Shop")
    first, second = session(environment, tools), session(environment, tools, {"stock": {"nut": 10}})
    take = ToolCall("take", {"part": "nut"})
    assert [first.call(take).text, first.call(take).text, second.call(take).text] == ["2", "1", "9"]
    later = ToolCall("later", {"part": "nut"})
    assert second.call(later).text == "9"
    assert [first.call(ToolCall(*call)).text for call in (("add", {"a": 1, "b": 2}), ("kind", {}), ("ping", {}))] == [
        "3",
        '"Shop"',
        '"pong"',
    ]
    with pytest.raises(ConfigError, match=r"takes no nuts, which the row's `state` has"):
        session(environment, tools, {"nuts": 3})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "",
            "defines no public function with a docstring; write one, with type hints, or name a class whose methods are",
        ),
        (":Shpo", "has no class 'Shpo'; did you mean Shop?"),
        (":Qwertz", "has no class 'Qwertz'; its classes are: Base, Shop, Other"),
        (":Other", "function lonely: the parameter 'x' has no type hint"),
    ],
)
def test_what_cannot_be_used_is_told(path: str, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        PythonTools(f"{path}{name}")
    assert said in str(raised.value)


def test_methods_can_be_chosen(path: str) -> None:
    assert [tool.name for tool in PythonTools(f"{path}:Shop", ["take", "ping"]).specs] == ["take", "ping"]
    with pytest.raises(ConfigError, match=r"has no function 'tak'; did you mean take?"):
        PythonTools(f"{path}:Shop", ["tak"])


def test_a_class_of_a_module_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cahl_test_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    assert [tool.name for tool in PythonTools("cahl_test_shop:Base").specs] == ["ping"]


def test_a_method_that_is_cached_is_a_tool(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text(
        "import functools\nclass Shop:\n    @functools.lru_cache\n    def twice(self, n: int) -> int:\n"
        '        """Double."""\n        return 2 * n\n'
    )
    (spec,) = PythonTools(f"{path}:Shop").specs
    session = PythonToolsEnvironment(f"{path}:Shop").start(Task("a", (Message("user", "x"),), (spec,), ()))
    assert session.call(ToolCall("twice", {"n": 4})).text == "8"
