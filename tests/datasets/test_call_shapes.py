"""Texts that look like a call of an offered tool in notations that no reader knows, and texts that only speak of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import RllaDataset
from cahl_pl.datasets.call_marks import unread_call
from cahl_pl.datasets.formats.table import FORMATS
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.errors import DataError
from cahl_pl.types import Task

DECLARED: dict[str, list[str]] = {
    "weather": ["city", "days"],
    "get_weather": ["city", "days"],
    "search": ["query", "limit"],
    "read_file": ["path"],
    "clock": [],
    "sum": ["values"],
    "Send Mail": ["to", "body"],
    "time": ["zone"],
}
TOOL_ROWS: list[Any] = [
    {"name": name, "parameters": {"type": "object", "properties": {one: {} for one in declared}}}
    for name, declared in DECLARED.items()
]
TOOLS = read_tools(TOOL_ROWS)

CALLS = (
    # tags
    "<use_mcp_tool>\n<server_name>w</server_name>\n<tool_name>weather</tool_name>\n<arguments>{}</arguments>\n</use_mcp_tool>",
    "<read_file>\n<path>src/main.py</path>\n</read_file>",
    "I'll look.\n\n<weather>\n<city>Oslo</city>\n</weather>",
    '<get_weather city="Oslo"/>',
    '<mcp:weather city="Oslo"></mcp:weather>',
    '<tool name="weather"><arg name="city">Oslo</arg></tool>',
    "<call><name>weather</name><args><city>Oslo</city></args></call>",
    "<action>weather</action><input>Oslo</input>",
    "<tool>get_weather</tool>",
    "<tool: weather> Oslo </tool>",
    "[CALL weather] Oslo",
    "[weather]{\"city\": \"Oslo\"}[/weather]",
    "{{tool:weather|Oslo}}",
    '<run function="weather">Oslo</run>',
    "<|tool|>weather<|args|>{\"city\": \"Oslo\"}",
    # labels
    'Tool: weather\nTool Input: {"city": "Oslo"}',
    "Tool: search\nTool Input: rain in Oslo",
    "Thought: I look.\nAction: search[rain in Oslo]",
    "Thought 1: I look.\nAction 1: Search[rain]",
    "Action: clock",
    "Action: get_weather for Oslo",
    "**Action:** `weather`\n**Input:** Oslo",
    "tool: weather\nargs:\n  city: Oslo",
    "- name: get_weather\n  arguments:\n    city: Oslo",
    "Function: weather, Arguments: Oslo, 2",
    "I use the tool weather: Oslo",
    "Calling weather with city=Oslo",
    # code
    'default_api.weather(city="Oslo")',
    'print(default_api.get_weather(city="Oslo"))',
    "```python\nprint(get_weather(town))\n```",
    'CALL weather("Oslo")',
    "[Toolformer says: it is [weather(Oslo)] there.]",
    'I call weather(city="Oslo") now.',
    "await weather('Oslo')",
    'result = get_weather("Oslo")\nprint(result)',
    "clock()",
    "Let me see.\nclock()",
    "weather(city: 'Oslo', days: 2)",
    "`weather(Oslo)`",
    'api.weather(city="Oslo")',
    'wether(city="Oslo", days=2)',
    "Send Mail(to='Bob', body='Hi')",
    # names before JSON or values
    'weather {"city": "Oslo"}',
    'weather\n{"city": "Oslo"}',
    "weather{city:Oslo}",
    'weather: {"city": "Oslo"}',
    'functions.weather:0{"city": "Oslo"}',
    'functions.weather:0<|tool_call_argument_begin|>{"city": "Oslo"}',
    '<|start|>assistant to=functions.weather json<|message|>{"city": "Oslo"}',
    'weather[ARGS]{"city": "Oslo"}',
    'get_weather -> {"town": "Oslo"}',
    "clock{}",
    "weather\ncity: Oslo\ndays: 2",
    "get_weather --city Oslo",
    "/weather Oslo",
    "@search rain in Oslo",
    "get_weather: Oslo",
    "- get_weather: Oslo",
    "get_weather",
    "get_weather Oslo",
    "get_weather 'Oslo' 3",
    "get_weather\nOslo",
    "#get_weather Oslo",
    "{{get_weather Oslo}}",
    "result = get_weather Oslo",
    "weather <- get_weather Oslo",
    "invoke get_weather",
    "Calling get_weather...",
    "call get_weather with city Oslo",
    "GET /get_weather?town=Oslo",
    "GET /api/get_weather",
    "curl -d '{}' http://localhost/get_weather",
    # the name as other programs spell it
    "getWeather({town: 'Oslo'})",
    "x <- getWeather(\"Oslo\")",
    "readFile README.md",
    "get-weather --city Oslo",
    'to=weather code {"city": "Oslo"}',
    # JSON
    '{"tool": "weather", "args": {"city": "Oslo"}}',
    '{"action": "search", "action_input": "rain in Oslo"}',
    '```json\n{"action": "Final Answer", "action_input": "It rains."}\n```',
    '{"weather": {"city": "Oslo"}}',
    '[{"get_weather": {"town": "Oslo"}}, {"clock": {}}]',
    '{"tool_calls": [{"weather": {"city": "Oslo"}}]}',
    '{"fn": "weather", "kwargs": {"city": "Oslo"}}',
    '{"intent": "weather", "slots": {"city": "Oslo"}}',
    '{"command": "weather", "with": {"city": "Oslo"}}',
    '{"action": "weather", "city": "Oslo"}',
    '{"type": "get_weather"}',
    '{"service": "get_weather", "city": "Oslo"}',
    '{"query": "get_weather", "city": "Oslo", "days": 2}',
    '["weather", {"city": "Oslo"}]',
    'I do this: {"function": "weather"}',
    "I do this: {'function': 'weather', 'with': 'Oslo'}",
    '"{\\"tool\\": \\"weather\\", \\"input\\": \\"Oslo\\"}"',
    '{"actions": [{"thought": "x", "do": {"name": "weather", "input": {"city": "Oslo"}}}]}',
    '{"tool": "wether", "parameters": {"city": "Oslo"}}',
)

WORDS = (
    "I used search to find it: it rains in Oslo.",
    "The weather in Oslo is fine.",
    "The weather: 7 degrees, and rain.",
    "Weather: 7 degrees",
    "weather: 7 degrees and rain",
    "I could call get_weather, but which city do you mean?",
    "I have these tools:\n- get_weather: looks up the weather of a city\n- search: finds pages\n- clock: says the time",
    "I have these functions:\n- clock()\n- weather(city, days=None)\n- search(query: str, limit: int = 10)",
    "1. search\n2. weather\n3. clock",
    "Use `get_weather(city)` for that.",
    "The function weather() says it, and so does get_weather.",
    "get_weather takes two parameters: city (required) and days.",
    "The weather (in Oslo) is bad.",
    "The weather (see [1]) is bad, and the search[2] found nothing.",
    "See [weather](https://example.org/weather?city=Oslo).",
    "Action: we search for the best option.",
    "What I suggest:\nAction: search the web yourself.",
    "Search: no results.",
    "The search returned {\"hits\": 3, \"pages\": []}.",
    'Here is the weather as JSON: {"temperature": 7, "wind": "NW"}',
    '{"weather": {"temperature": 7, "wind": "NW"}, "time": "12:00"}',
    '{"city": "Oslo", "days": 2}',
    '{"name": "weather", "version": "1.0.0", "license": "MIT"}',
    '{"name": "Oslo", "country": "Norway"}',
    '{"topic": "weather", "summary": "It rains."}',
    '{"type": "search", "results": [{"title": "Oslo"}]}',
    '["weather", "search", "clock"]',
    "{'weather': 'rain', 'clock': '12:00'}",
    "[1, 2, 3]",
    "```json\n{\"forecast\": [{\"day\": 1, \"weather\": \"rain\"}]}\n```",
    "```python\nimport re\nre.search(r'rain', text)\n```",
    "```python\ndef search(query):\n    return [page for page in pages if query in page]\n\nsearch('rain')\n```",
    "```js\nfunction weather(city) { return fetch(url + city); }\n```",
    "```python\nvalues = [1, 2]\nprint(sum(values) / len(values))\n```",
    "```sql\nSELECT sum(price), time FROM orders;\n```",
    '```html\n<form><input type="search" name="search"><time datetime="12:00">noon</time></form>\n```',
    "The train leaves at <time>12:00</time>, and I can search for others.",
    "```xml\n<forecast><city>Oslo</city><rain>true</rain></forecast>\n```",
    "```bash\ngit log --search && ls -la time\n```",
    "sum(1, 2) = 3, since a sum adds its values.",
    "Type <search> in the box, replace <city> by your city.",
    "What is the time?",
    "Which city do you mean, and for how many days? I need both for the weather.",
    "I cannot send mail without an address. To: whom should it go?",
    "get_weather failed, so I cannot say.",
    "get_weather failed",
    "get_weather says: it rains in Oslo, and will do so for 3 days.",
    "Use get_weather to see whether it rains.",
    "Using get_weather I found that Oslo is wet. The city: Oslo.",
    "Calling get_weather did not help, so which city do you mean?",
    "I got the weather from getWeather.",
    '{"source": "get_weather", "temperature": 7}',
    '{"source": "get_weather"}',
    "| tool | what it does |\n| --- | --- |\n| get_weather | weather of a city |\n| read_file | reads a file |",
    "To read the file yourself: `cat src/main.py`. read_file is not needed.",
    "Call: +47 123, or write to weather@example.org.",
    "E = mc^2, and f(x) = x + 1.",
    "print('Hello')",
)


@pytest.mark.parametrize("text", CALLS)
def test_a_text_that_looks_like_a_call_is_found(text: str) -> None:
    assert unread_call(text, TOOLS) is not None


HELD_OUT = (
    '> search[rain in Oslo]',
    'Plan: I look.\n#E1 = search[rain in Oslo]',
    "<search>rain in Oslo</search>",
    "[search: rain in Oslo]",
    'session.call_tool("search", arguments={"query": "x"})',
    'Let me check.search(query="x")',
    '(search "rain")',
    "### Tool\nsearch\n### Input\nrain",
    "GET_WEATHER(Oslo)",
)


@pytest.mark.parametrize("text", HELD_OUT)
def test_other_shapes_are_found_too(text: str) -> None:
    assert unread_call(text, TOOLS) is not None


@pytest.mark.parametrize("text", WORDS)
def test_a_text_that_speaks_of_a_tool_is_an_answer(text: str) -> None:
    assert unread_call(text, TOOLS) is None


FORMS = ("openai", "anthropic", "sharegpt", "toolace", "openai-responses", "glaive")


def row_of(form: str, text: str) -> dict[str, Any]:
    """Return a row of a format whose one turn of the assistant is this text."""
    said = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": text}]
    turns = [{"from": "user", "value": "Rain?"}, {"from": "assistant", "value": text}]
    wrapped = [{"type": "function", "function": tool} for tool in TOOL_ROWS]
    rows: dict[str, dict[str, Any]] = {
        "openai": {"messages": said, "tools": wrapped},
        "anthropic": {"messages": said, "tools": [{"name": t["name"], "input_schema": t["parameters"]} for t in TOOL_ROWS]},
        "sharegpt": {"conversations": turns, "tools": json.dumps(TOOL_ROWS)},
        "toolace": {"system": json.dumps(TOOL_ROWS), "conversations": turns},
        "openai-responses": {"input": said, "tools": wrapped},
        "glaive": {"system": f"Use {json.dumps(TOOL_ROWS)}", "chat": f"USER: Rain?\n\n\nASSISTANT: {text} <|endoftext|>"},
    }
    return rows[form]


def only(form: str, text: str) -> Task | DataError:
    try:
        (found,) = FORMATS[form].tasks(row_of(form, text), "r")
    except DataError as error:
        return error
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text", [CALLS[0], "Action: clock", "Action: search[rain]", 'I call weather(city="Oslo").', '{"weather": {"city": "Oslo"}}']
)
def test_no_form_takes_a_call_for_an_answer(form: str, text: str) -> None:
    found = only(form, text)
    assert isinstance(found, DataError)
    assert "call" in str(found)
    answer = only(form, WORDS[0])
    assert isinstance(answer, Task)
    assert answer.answer == WORDS[0]


def test_no_row_of_any_reader_is_taken_with_a_call_for_an_answer(tmp_path: Path) -> None:
    system = (
        "**Available Tools**\n1. Name: weather\nDescription: Look.\nParameters: {\"city\": {\"type\": \"str\"}}\n"
        "**Steps for Each Turn**"
    )
    row = {"instruction": system, "input": "**Dialogue Records History**\n<user> Rain? </user>\n"}
    rows = [row | {"output": f"<response> {said} </response>"} for said in ('weather(city="Oslo")', "It rains.")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    tasks = RllaDataset(tmp_path / "rows.json")
    assert [tasks[i].answer for i in range(len(tasks))] == ["It rains."]
    assert "the answer holds a call (the code weather(...)), not an answer in words" in tasks.report.dropped[0][1]


def test_text_beside_calls_may_speak_of_them() -> None:
    call = {"id": "1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    row = row_of("openai", 'I call weather(city="Oslo").')
    row["messages"][1]["tool_calls"] = [call]
    (task,) = FORMATS["openai"].tasks(row, "r")
    assert isinstance(task, Task)
    assert [gold.name for gold in task.gold] == ["weather"]
    row["messages"][1]["content"] = 'Then search(query="rain").'
    (fault,) = FORMATS["openai"].tasks(row, "r")
    assert "the code search(...)" in str(fault)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        "", " \n", "\u200b\u3164", "<think>I look.</think>", "<think>I need the", "<thinking>Hm.</thinking>\n",
        "Thought: I look.",
    ],
)  # fmt: skip
def test_a_turn_that_neither_says_nor_calls_is_a_fault(form: str, text: str) -> None:
    if form == "toolace" and text.strip():
        return  # which has no thoughts
    found = only(form, text)
    assert isinstance(found, DataError)
    assert "the assistant neither says nor calls anything (thoughts do not count): write its answer" in str(found)


@pytest.mark.parametrize("more", [{"tool_calls": []}, {"tool_calls": None}, {"reasoning_content": "Hm."}])
@pytest.mark.parametrize("content", ["", None])
def test_no_content_without_calls_is_a_fault(content: Any, more: dict[str, Any]) -> None:
    row = row_of("openai", "")
    row["messages"][1] = {"role": "assistant", "content": content} | more
    with pytest.raises(DataError, match=r"neither says nor calls|the field 'content' must be text, but is null"):
        read_any(row, "r")


@pytest.mark.parametrize("form", ["openai", "sharegpt", "anthropic"])
@pytest.mark.parametrize("text", ["[]", '{"tool_calls": []}', "```json\n[]\n```", "<think>None fits.</think>[]"])
def test_a_list_of_no_calls_says_that_none_is_needed(form: str, text: str) -> None:
    found = only(form, text)
    assert isinstance(found, Task)
    assert (found.gold, found.answer) == ((), None)
