"""A file of functions as the toolkit of a sandbox."""

from __future__ import annotations

import pytest

from cahl_pl.environments import PythonTools, SandboxedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Feedback, Message, Task, ToolCall, ToolSpec

pytestmark = pytest.mark.filterwarnings("ignore:the sandbox cannot enforce")


def test_a_file_of_functions_is_a_toolkit(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import math\nfrom dataclasses import dataclass\nfrom functools import cache\nfrom os.path import join\n\nLIMIT = 3\n\n"
        "@dataclass\nclass Pair:\n    a: int\n\n"
        "def put(amount, state):\n    state['balance'] += amount\n    return state['balance']\n\n"
        "@cache\ndef root(x):\n    return math.isqrt(x) + _one()\n\n"
        "def _one():\n    return Pair(1).a\n"
    )
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}, "x": {"type": "integer"}}}
    names = ("put", "root", "join", "_one", "Pair", "LIMIT")
    task = Task(
        "t", (Message("user", "?"),), tuple(ToolSpec(n, "", schema) for n in names[:2]), (), state={"balance": 10}
    )
    environment = SandboxedEnvironment(str(file))
    session = environment.start(task)
    assert session.call(ToolCall("put", {"amount": "5"})) == Feedback("15")
    assert session.call(ToolCall("put", {"amount": 1})) == Feedback("16")
    assert session.call(ToolCall("root", {"x": 17})) == Feedback("5")
    assert environment.start(task).call(ToolCall("put", {"amount": 1})) == Feedback("11")
    for name in names[2:]:
        other = Task("t", task.messages, (ToolSpec(name, "", schema),), (), state={})
        with pytest.raises(ValueError, match=name):
            environment.start(other)
    environment.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [("def f():\n    return 2\n", "the file has changed since its tools"), (None, "cannot be read any more")],
)
def test_a_file_that_changes_stops_the_run_once_it_would_be_read_again(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text("import os\ndef f(x=0):\n    return x\ndef end():\n    os._exit(0)\n")
    tools = tuple(ToolSpec(name, "", {"type": "object", "properties": {}}) for name in ("f", "end"))
    environment = SandboxedEnvironment(str(file))
    session = environment.start(Task("t", (Message("user", "?"),), tools))
    file.unlink() if text is None else file.write_text(text)
    assert session.call(ToolCall("f", {})) == Feedback("0")
    assert session.call(ToolCall("end", {})).error == "tool"
    with pytest.raises(ConfigError, match=message):
        session.call(ToolCall("f", {}))
    environment.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "which does not exist; correct the path"),
        ("def f(:\n", r"cannot be imported in a sandbox: .*\(invalid syntax"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=reason):
        SandboxedEnvironment(str(tmp_path / "mine.py"))


def test_a_file_of_functions_gets_its_values_as_declared(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import asyncio\nfrom dataclasses import dataclass\nfrom datetime import date, timedelta\n\n"
        "@dataclass\nclass Stay:\n    day: date\n    nights: int = 1\n\n"
        'def leave(stay: Stay) -> Stay:\n    """Leave."""\n    return Stay(stay.day + timedelta(stay.nights), 0)\n\n'
        'async def nap(seconds: float) -> str:\n    """Nap."""\n    await asyncio.sleep(seconds)\n    return "rested"\n\n'
        'def thing() -> object:\n    """Get a thing."""\n    return object()\n\n'
        'seen = []\ndef see(x: int) -> list[int]:\n    """See."""\n    seen.append(x)\n    return seen\n'
    )
    task = Task("t", (Message("user", "?"),), PythonTools(str(file)).specs)
    environment = SandboxedEnvironment(str(file))
    session = environment.start(task)
    assert session.call(ToolCall("leave", {"stay": {"day": "2024-02-28"}})).text == '{"day": "2024-02-29", "nights": 0}'
    wrong = session.call(ToolCall("leave", {"stay": {"day": "soon"}}))
    assert wrong.error == "type"
    assert "parameter 'stay.day': input should be a valid date" in wrong.text
    assert session.call(ToolCall("nap", {"seconds": 0.01})) == Feedback('"rested"')
    assert session.call(ToolCall("thing", {})).error == "tool"
    assert session.call(ToolCall("see", {"x": 1})) == Feedback("[1]")
    with pytest.warns(UserWarning, match="calls have changed seen, which all episodes share"):
        other = environment.start(task)
    assert other.call(ToolCall("see", {"x": 2})) == Feedback("[1, 2]")
    environment.start(task)
    environment.close()


SHOP = (
    "import abc\n\n\nclass Shop:\n    def __init__(self, stock):\n        self.stock = stock\n\n"
    '    def take(self, number: int) -> int:\n        """Take.\n\n        Args:\n            number: How many.\n        """\n'
    "        self.stock -= number\n        return self.stock\n\n\n"
    'class Plan(abc.ABC):\n    @abc.abstractmethod\n    def take(self) -> int:\n        """Take."""\n'
)


def test_the_methods_of_a_class_are_a_toolkit(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SHOP)
    tools = PythonTools(f"{file}:Shop").specs
    environment = SandboxedEnvironment(f"{file}:Shop")
    task = Task("t", (Message("user", "?"),), tools, state={"stock": 5})
    session = environment.start(task)
    assert [session.call(ToolCall("take", {"number": 2})).text for _ in range(2)] == ["3", "1"]
    assert environment.start(task).call(ToolCall("take", {"number": "4"})) == Feedback("1")
    with pytest.raises(ConfigError, match=r"Shop\(\*\*state\) needs stock"):
        environment.start(Task("u", task.messages, tools))
    environment.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [("Shopp", "did you mean Shop?"), ("Plan", "Plan is abstract"), (":Shop", "does not name a class of Python tools")],
)
def test_a_class_that_cannot_be_used_is_one_sentence(tmp_path, name, said):
    file = tmp_path / "mine.py"
    file.write_text(SHOP)
    with pytest.raises(ConfigError) as raised:
        SandboxedEnvironment(f"{file}:{name}")
    assert said in str(raised.value)
