"""Wrong task files, one mistake each, and the message that `check-data` should print."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "at": {"type": "object", "properties": {"hour": {"type": "integer"}}},
    },
    "required": ["city"],
}
FUNCTION: Final[dict[str, Any]] = {"name": "find_weather", "description": "Look.", "parameters": PARAMETERS}
GOLD: Final[dict[str, Any]] = {"name": "find_weather", "arguments": {"city": "Oslo"}}
ASK: Final[dict[str, Any]] = {"role": "user", "content": "Weather in Oslo?"}
CALL: Final[dict[str, Any]] = {"id": "a", "function": {"name": "find_weather", "arguments": '{"city": "Oslo"}'}}
CALLS: Final[dict[str, Any]] = {"role": "assistant", "tool_calls": [CALL]}


class Mistake(NamedTuple):
    """Wrong task file.

    Attributes:
        name: name of the mistake.
        content: the file's content.
        said: part of the expected message.
        file: the file's name.
        line: the line that the message should name; None for the whole file.
    """

    name: str
    content: str | bytes
    said: str
    file: str = "rows.jsonl"
    line: int | None = 1


def row(**change: Any) -> str:
    """Return a valid row with these fields changed, or left out if they are `...`."""
    made = {
        "id": "r",
        "messages": [ASK],
        "tools": [{"type": "function", "function": FUNCTION}],
        "gold": [GOLD],
    } | change
    return json.dumps({key: value for key, value in made.items() if value is not ...})


def gold(**change: Any) -> str:
    """Return a row whose gold call has these fields changed."""
    return row(gold=[{key: value for key, value in (GOLD | change).items() if value is not ...}])


def function(**change: Any) -> str:
    """Return a row whose tool has these fields changed."""
    made = {key: value for key, value in (FUNCTION | change).items() if value is not ...}
    return row(tools=[{"type": "function", "function": made}])


def parameters(**change: Any) -> str:
    """Return a row whose tool's parameters have these keywords changed."""
    return function(parameters=PARAMETERS | change)


def said(*messages: Any) -> str:
    """Return a row whose dialogue continues with these messages."""
    return row(messages=[ASK, *messages])


def answered(**answer: Any) -> str:
    """Return a row in which the assistant makes a call and the tool answers this."""
    return said(CALLS, {"role": "tool", "content": "x"} | answer)


def openai(*turns: Any) -> str:
    """Return a row in OpenAI's format, whose gold is in its turns."""
    return json.dumps({"messages": [ASK, *turns], "tools": [{"type": "function", "function": FUNCTION}]})


M = Mistake
FILES: Final = (
    M("a CSV file", "id,messages\nr,x\n", "this is a table, and rows of tasks are nested", "rows.csv", None),
    M("an Excel file", b"PK\x03\x04", "this is a table, and rows of tasks are nested", "rows.xlsx", None),
    M("one object over several lines", '{\n "id": "r"\n}\n', "from line 1 to 3: write each row on one line"),
    M("latin-1", b'{"id": "\xe9"}', "byte 8 is not UTF-8; convert the file to UTF-8, from WINDOWS-1252 or"),
    M(
        "UTF-16",
        row().encode("utf-16"),
        "the file is UTF-16, not UTF-8; convert it to UTF-8: iconv -f UTF-16",
        line=None,
    ),
    M("gzip", b"\x1f\x8b\x08", "the file is packed by gzip; unpack it first", line=None),
    M("xz", b"\xfd7zXZ", "the file is packed by xz; unpack it first", line=None),
    M("zip", b"PK\x03\x04", "the file is packed by zip; unpack it first", line=None),
    M(
        "an empty file",
        "",
        "no row can be used: the file holds none; check that this is the right file and format",
        line=None,
    ),
    M("a JSON list", f"[{row()}]", "one JSON object a line is needed, not a list or parquet", line=None),
    M("no parquet in it", "x", "not a parquet file that can be read", "rows.parquet", None),
)
LINES: Final = (
    M("single quotes", "{'id': 'r'}", "not JSON: Expecting property name"),
    M(
        "a row as Python prints it",
        "{'id': None}",
        "as in Python's notation, with single quotes: write it by json.dumps",
    ),
    M("a line that breaks off", row()[:-1], "not JSON: Expecting"),
    M("a comma after a row", row() + ",", "not JSON: there is more text after the value"),
    M("NaN", '{"id": NaN}', "NaN is not JSON: write null, a number or text"),
    M("a number out of range", '{"id": 1e999}', "the number 1e999 is out of range: write a smaller one, or text"),
    M("a comma at the end", '{"id": "r",}', "(a comma stands before the closing }: leave it out)"),
    M("a comment", '{"id": "r" // mine', "(JSON has no comments: leave it out)"),
    M("a key without quotes", '{id: "r"}', '(keys stand in double quotes: "id")'),
    M("two rows on a line", row() + row(id="s"), "(is it another row? write each on a line of its own)"),
    M("lines of old Macs", f"{row()}\r{row(id='s')}\r", "the lines end with carriage returns alone, as on old Macs"),
    M(
        "an object over several lines after a good row",
        row() + '\n{\n "id": "s",\n "gold": [\n ]\n}\n',
        "rows.jsonl, line 2: this looks like one value over several lines, from line 2 to 6: write each row on one line, or",
        line=2,
    ),
    M("a key twice", '{"id": "r", "id": "s"}', "the key 'id' appears twice in one object"),
    M("a bare text", '"text"', "there must be an object with the field 'id', not text"),
    M("an id twice", row() + "\n" + row(), "the id 'r' appears twice", line=2),
    M("no id", row(id=...), "the field 'id' is missing"),
    M("a blank id", row(id=" "), "the field 'id' is blank: give each row an id that no other has"),
    M("a number as id", row(id=7), "the field 'id' must be text, but is an integer"),
    M("a misspelt field", row(gold=..., golds=[], ordered=True), "there is no field 'golds'; did you mean 'gold'?"),
    M("no gold", row(gold=..., ordered=True), "the field 'gold' is missing"),
    M("no tools", row(tools=...), "the field 'tools' is missing; a module of Python functions can stand in for it"),
    M("text for a flag", row(ordered="yes"), "the field 'ordered' must be true or false"),
    M("a blank answer", row(answer=" ", gold=[]), "the field 'answer' is blank; leave it out"),
    M("a call as answer", row(answer=f"<tool_call>{json.dumps(GOLD)}</tool_call>", gold=[]), "'answer' holds a call"),
    M("a number as tag", row(tags={"n": 1}), "the field 'tags' must hold text only"),
)
TOOLS: Final = (
    M("no object as tool", row(tools=[3]), "the field 'tools', tool 1: a tool must be an object with a name"),
    M("a tool without a name", function(name=...), "the field 'tools', tool 1: the field 'name' is missing"),
    M("an empty name", function(name=""), "the field 'tools', tool 1: the name is empty"),
    M("paramters", function(parameters=..., paramters={}), "'paramters' of a tool; did you mean 'parameters'?"),
    M("a type misspelt", parameters(properties={"city": {"type": "strng"}}), "'strng'; did you mean \"string\"?"),
    M("a type of no JSON", parameters(properties={"city": {"type": "date"}}), "there is no type 'date'; use one of"),
    M("required, not declared", parameters(required=["town"]), "'required' names 'town', which is not among"),
    M("required, not a list", parameters(required="city"), "parameters are not valid JSON Schema: required:"),
    M(
        "a list of parameters",
        function(parameters=["city"]),
        "'parameters' must be JSON Schema, an object, but is a list",
    ),
)
GOLDS: Final = (
    M(
        "a tool misspelt",
        gold(name="find_wether"),
        "no tool is named 'find_wether'; offered: find_weather; did you mean",
    ),
    M("no tools, but gold", row(tools=[]), "no tool is named 'find_weather'; offered: none; correct the name"),
    M("an empty tool name", gold(name=""), "the field 'gold', call 1: the field 'name' is empty"),
    M("a parameter misspelt", gold(arguments={"citty": "Oslo"}), "has no parameter 'citty'; declared: city"),
    M(
        "a key within it misspelt",
        gold(arguments={"city": "x", "at": {"huor": 1}}),
        "has no 'huor'; did you mean 'hour'?",
    ),
    M(
        "not of the enum",
        gold(arguments={"city": "x", "unit": "celcius"}),
        "is not one of ['celsius', 'kelvin']; did you",
    ),
    M("no arguments", gold(arguments=...), "'arguments' is missing; a call without any has {}"),
    M("arguments as text", gold(arguments="Oslo"), "the field 'arguments' is text that is not JSON"),
    M("arguments as a list", gold(arguments=["Oslo"]), "the field 'arguments' must be an object, but is a list"),
    M(
        "gold as text",
        row(gold=json.dumps([GOLD])),
        "but is text that holds JSON: write the list itself, without the quotes",
    ),
    M("results", gold(results=1), "the field 'gold', call 1: there is no field 'results'; did you mean 'result'?"),
    M("gold that is no list", row(gold=GOLD), "the field 'gold' must be a list, but is an object"),
    M("no stored result", row(gold=[GOLD, GOLD | {"arguments": {"city": "$1"}}]), "call 1, but none is stored: give"),
    M(
        "another value than the result",
        row(gold=[GOLD | {"result": "rain"}, GOLD | {"references": {"city": "$1"}}]),
        "'city' is \"Oslo\", which is not in the result of call 1 that it refers to; correct",
    ),
    M(
        "a field that the result has not",
        row(gold=[GOLD | {"result": {"a": 1}}, GOLD | {"arguments": {"city": "$1.b"}}]),
        "has no field 'b'; its fields",
    ),
    M(
        "a reference to null",
        row(gold=[GOLD | {"result": None}, GOLD | {"arguments": {"city": "$1"}}]),
        "'city' refers to \"$1\", and the tool does not take that",
    ),
    M(
        "a reference to null, beside it",
        row(gold=[GOLD | {"result": None}, GOLD | {"arguments": {"city": None}, "references": {"city": "$1"}}]),
        "'city' refers to \"$1\", and the tool does not take that",
    ),
    M("a reference to itself", gold(arguments={"city": "$1"}), "refers to call 1, which does not come before it"),
    M("a reference to no call", gold(arguments={"city": "$5.city"}), "looks like a reference, but can be none"),
    M("another reference notation", gold(arguments={"city": "${1.city}"}), 'a reference is written "$1" or "$1.city"'),
    M(
        "too deep to be written",
        gold(arguments={"city": "x", "at": json.loads('{"a":' * 66 + "1" + "}" * 66)}),
        "is none that an output can make",
    ),
    M(
        "65 parallel calls",
        row(gold=[GOLD] * 65),
        '65 parallel gold calls, and an output holds 64 at most; with "ordered"',
    ),
)
TEXTS: Final = tuple(
    M(
        f"no {name}",
        row(
            tools=[
                FUNCTION | {"parameters": {"type": "object", "properties": {"at": {"type": "string", "format": name}}}}
            ],
            gold=[GOLD | {"arguments": {"at": "tomorrow"}}],
        ),
        f"gold call 1: find_weather, at: 'tomorrow' is no {name}, such as ",
    )
    for name in ("date", "date-time", "time", "duration", "uuid", "decimal")
)
MESSAGES: Final = (
    M("a blank request", row(messages=[{"role": "user", "content": "  "}]), "the request is blank: the user's last"),
    M("no messages", row(messages=[]), "the field 'messages' must end with a user's message or a tool's answer"),
    M("human", said({"role": "human", "content": "x"}), "message 2: the role 'human' must be one of system, user"),
    M("a late system text", said({"role": "system", "content": "x"}, ASK), "a system message can only come first"),
    M(
        "null as content",
        said({"role": "user", "content": None}),
        "message 2: the field 'content' must be text, but is null",
    ),
    M("an image", said({"role": "user", "content": [{"type": "image"}]}), "part 1 is 'image': only parts of text"),
    M("tool_call", said({"role": "assistant", "content": "", "tool_call": [CALL]}, ASK), "did you mean 'tool_calls'?"),
    M("a call without an answer", said(CALLS, ASK), "message 2: call 1 (find_weather) has no answer"),
    M("an id of no call", answered(tool_call_id="b"), "message 3: the tool_call_id 'b' answers no call; those of its"),
    M(
        "an answer without a call",
        said({"role": "tool", "content": "x"}),
        "a tool's answer has to follow a call of the",
    ),
    M("calls in both fields", said(CALLS | {"function_call": CALL["function"]}, ASK), "are both there: leave one of"),
)
FORMS: Final = (
    M("rows of Seal-Tools", json.dumps({"query": "q", "calling": []}), "convert-data seal-tools INPUT OUTPUT"),
    M("rows of nobody", json.dumps({"a": 1, "b": 2}), "the row has no form that is known: cahl-pl convert-data --help"),
    M(
        "OpenAI's, no tools",
        json.dumps({"messages": [ASK, ASK | {"role": "assistant"}]}),
        "without the tools that were",
    ),
    M("not to be learnt", openai({"role": "assistant", "content": "x", "weight": 0}), "not to be learnt (weight 0)"),
    M(
        "an unknown notation",
        openai({"role": "assistant", "content": "<start_function_call>"}),
        "notation that is not read",
    ),
    M(
        "a broken notation",
        openai({"role": "assistant", "content": "[TOOL_CALLS] [{"}),
        "starts with '[TOOL_CALLS]': not JSON",
    ),
)

MISTAKES: Final = (*FILES, *LINES, *TOOLS, *GOLDS, *TEXTS, *MESSAGES, *FORMS)
