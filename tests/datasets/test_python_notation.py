"""Tools, arguments and answers that data sets write as Python would (ToolBench) are read as literals, and nothing is run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError

PARAMETERS = {
    "type": "object",
    "properties": {"q": {"type": "string", "description": "It's a title."}, "deep": {"type": "boolean"}},
    "required": ["q"],
    "optional": [],
}
TOOLS = [{"name": "find", "description": "Find a book.", "parameters": PARAMETERS}]
ASK = {"role": "user", "content": "Find it."}


def own(arguments: Any, tools: Any = TOOLS) -> dict[str, Any]:
    return {"id": "r", "messages": [ASK], "tools": tools, "gold": [{"name": "find", "arguments": arguments}]}


@pytest.mark.parametrize("text", [repr, json.dumps])
def test_tools_and_arguments_may_be_text_of_either_notation(text: Any) -> None:
    arguments = {"q": 'it\'s "x"', "deep": True}
    for row in (
        own(text(arguments), text(TOOLS)),
        {"query": "Find it.", "tools": text(TOOLS), "answers": text([{"name": "find", "arguments": arguments}])},
    ):
        task = read_any(row, "r")
        assert [tool.name for tool in task.tools] == ["find"]
        assert task.tools[0].parameters["required"] == ["q"]
        assert [gold.arguments for gold in task.gold] == [arguments]


def test_tools_at_the_end_of_a_system_text() -> None:
    said = [
        ("system", f"You are AutoGPT.\nSpecifically, you have access to the following APIs: {TOOLS!r}"),
        ("user", "Find it.\nBegin!\n"),
        ("assistant", '\nThought: \nAction: find\nAction Input: {\n  "q": "a"\n}'),
    ]
    task = read_any({"id": "t", "conversations": [{"from": who, "value": text} for who, text in said]}, "t")
    assert [message.content.strip() for message in task.messages] == ["You are AutoGPT.", "Find it.\nBegin!"]
    assert [tool.name for tool in task.tools] == ["find"]
    assert [dict(gold.arguments) for gold in task.gold] == [{"q": "a"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'q': 'a', 'q': 'b'}", r"not JSON: .* \(as in Python's notation, with single quotes: write it by json.dumps"),
        ("{'q': open('x')}", r"not JSON: .* \(as in Python's notation"),
        ("{'q': 'a'", r"not JSON: .* \(as in Python's notation"),
        ('{"q": "a", "q": "b"}', "the key 'q' appears twice"),
        ('{"q": NaN}', "NaN is not JSON"),
        ("find it", r"not JSON: Expecting value at character 0$"),
    ],
)
def test_what_neither_notation_has_is_told(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_value(text)
