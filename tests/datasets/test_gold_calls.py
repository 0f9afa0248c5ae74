"""Gold calls: what they refer to is looked up and checked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.gold_calls import read_gold
from cahl_pl.datasets.jsonl import row_to_task, task_to_row
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, ToolSpec

TEXT = {"type": "object", "properties": {"city": {"type": "string"}}}
ANY = {"type": "object", "properties": {"v": {}, "ids": {"type": "array"}}}
TOOLS = (ToolSpec("find", "", TEXT), ToolSpec("use", "", ANY), ToolSpec("say", "", TEXT))
TOOL_ROWS = [{"name": tool.name, "parameters": dict(tool.parameters)} for tool in TOOLS]

RESULT = {"city": "Oslo", "items": [{"id": 7}, {"id": 8}], "zip": "0150"}
FIND = {"name": "find", "arguments": {}, "result": RESULT}


def second(arguments: Any, references: Any = None, name: str = "use", first: Any = FIND) -> GoldCall:
    call = {"name": name, "arguments": arguments} | ({} if references is None else {"references": references})
    return read_gold([first, call], TOOLS)[1]


@pytest.mark.parametrize(
    ("arguments", "references", "values", "read"),
    [
        ({"v": "Oslo"}, {"v": "$1"}, {"v": "Oslo"}, {"v": "$1"}),
        ({"v": 150}, {"v": "$1.zip"}, {"v": 150}, {"v": "$1.zip"}),  # a number and its text
        ({"v": 8}, {"v": "$1.items[1].id"}, {"v": 8}, {"v": "$1.items[1].id"}),
        ({"ids": [7, 8]}, {"ids": ["$1.items[0].id", "$1.items[1].id"]}, {"ids": [7, 8]}, None),
        ({"v": {"x": [7]}}, {"v": {"x": ["$1.items[0].id"]}}, {"v": {"x": [7]}}, None),
        ({"v": "$1.city"}, None, {"v": "Oslo"}, {"v": "$1.city"}),
        ({"v": "$1"}, None, {"v": RESULT}, {"v": "$1"}),
        ({"v": "$1.city"}, {}, {"v": "Oslo"}, {"v": "$1.city"}),
        ({"v": "$1.city"}, {"v": "$1.city"}, {"v": "Oslo"}, {"v": "$1.city"}),
        ({"ids": ["$1.items[0].id", 3]}, None, {"ids": [7, 3]}, {"ids": ["$1.items[0].id", 3]}),
        ({"v": "$1"}, {"v": None}, {"v": "$1"}, {}),  # text, as the row says
        ({"v": "$5"}, None, {"v": "$5"}, {}),  # there is no fifth call
        ({"v": "$1.50"}, None, {"v": "$1.50"}, {}),
        ({"v": "costs $1"}, None, {"v": "costs $1"}, {}),
    ],
)
def test_references_are_read_and_looked_up(arguments: Any, references: Any, values: Any, read: Any) -> None:
    gold = second(arguments, references)
    assert gold.arguments == values
    assert gold.references == (references if read is None else read)


def test_results_may_be_text() -> None:
    assert second({"v": "Oslo"}, {"v": "$1"}, first=FIND | {"result": "It is Oslo."}).arguments == {"v": "Oslo"}
    assert second({"v": "$1.city"}, first=FIND | {"result": '{"city": "Oslo"}'}).arguments == {"v": "Oslo"}


@pytest.mark.parametrize(
    ("arguments", "references", "fault"),
    [
        ({"v": "Bergen"}, {"v": "$1"}, "'v' is \"Bergen\", which is not in the result of call 1 that it refers to"),
        ({"v": "Bergen"}, {"v": "$1.city"}, '\'v\' is "Bergen", but "$1.city" that it refers to is "Oslo"'),
        ({"v": 8}, {"v": "$1.items[0].id"}, "'v' is 8, but \"$1.items[0].id\" that it refers to is 7"),
        (
            {"v": "$1.town"},
            None,
            "'v' refers to $1.town, which is not in the result of call 1: the result has no field 'town'",
        ),
        ({"v": "x"}, {"v": "$1.items[2]"}, ".items has 2 elements, and no [2] counted from 0"),
        ({"v": "$2"}, None, "the argument 'v' refers to call 2, which does not come before it"),
        ({"v": "x"}, {"v": "$2"}, "the reference of 'v' must be the number of an earlier call"),
        (
            {"v": "x"},
            {"v": "first"},
            'must be the number of an earlier call, such as "$1" or "$1.city", or a list or an object',
        ),
        ({"v": "x"}, {"w": "$1"}, "the field 'references' names 'w', which the call does not have; it has to be among"),
        ({"value": "x"}, {"valu": "$1"}, "names 'valu', which the call does not have; did you mean 'value'?"),
        ({"ids": [7, 9]}, {"ids": ["$1.items[0].id", "$1.items[1].id"]}, "'ids' is [7, 9], but"),
    ],
)
def test_references_that_cannot_be_right_are_named(arguments: Any, references: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        second(arguments, references)
    assert str(error.value).startswith("the field 'gold', call 2: ")
    assert fault in str(error.value)


def test_a_reference_needs_a_stored_result() -> None:
    bare = {"name": "find", "arguments": {}}
    for arguments, references in (({"v": "$1"}, None), ({"v": "x"}, {"v": "$1"})):
        with pytest.raises(
            DataError, match="refers to the result of call 1, but none is stored: give that call the field"
        ):
            second(arguments, references, first=bare)


def test_a_whole_result_where_the_tool_takes_a_part_is_refused() -> None:
    with pytest.raises(DataError, match=r"and the tool does not take that .*name the part of the result that is meant"):
        second({"city": "$1"}, name="say")
    assert second({"city": "$1.city"}, name="say").arguments == {"city": "Oslo"}
    assert second({"city": "$1"}, name="say", first=FIND | {"result": "Oslo"}).arguments == {"city": "Oslo"}


@pytest.mark.parametrize(
    "form",
    [
        {"name": "find", "arguments": {"city": "Oslo"}},
        {"name": "find", "arguments": '{"city": "Oslo"}'},
        {"name": "find", "parameters": {"city": "Oslo"}},
        {"type": "function", "id": "a", "function": {"name": "find", "arguments": '{"city": "Oslo"}'}},
    ],
)
def test_forms_of_a_gold_call(form: Any) -> None:
    assert read_gold([form], TOOLS) == (GoldCall("find", {"city": "Oslo"}),)


@pytest.mark.parametrize("empty", ["", None, "null", {}])
def test_gold_without_arguments(empty: Any) -> None:
    assert read_gold([{"name": "find", "arguments": empty}], TOOLS) == (GoldCall("find", {}),)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ({"name": "", "arguments": {}}, "the field 'name' is empty"),
        ({"name": "f"}, "the field 'arguments' is missing; a call without any has {}"),
        ({"name": "f", "argument": {}}, "there is no field 'argument' of a call; did you mean 'arguments'?"),
        ({"name": "f", "arguments": {}, "results": 1}, "there is no field 'results'; did you mean 'result'?"),
        ({"name": "f", "arguments": [1]}, "the field 'arguments' must be an object, but is a list"),
        ({"name": "f", "arguments": "x"}, "the field 'arguments' is text that is not JSON"),
        ("f", "there must be an object with the field 'name', not text"),
    ],
)
def test_what_is_no_gold_call_is_named(call: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        read_gold([call], TOOLS)
    assert str(error.value).startswith(f"the field 'gold', call 1: {fault}")


def test_references_are_written_and_read_back() -> None:
    tool = {"function": {"name": "use", "parameters": ANY}}
    calls = [
        {"name": "use", "arguments": {}, "result": RESULT},
        {"name": "use", "arguments": {"v": "$1.city", "ids": ["$1.items[0].id"]}},
        {"name": "use", "arguments": {"v": "$1"}, "references": {"v": None}},
    ]
    task = row_to_task({"id": "t", "messages": [{"role": "user", "content": "q"}], "tools": [tool], "gold": calls})
    assert task.gold[1].planned.arguments == {"v": "$1.city", "ids": ["$1.items[0].id"]}
    assert task.gold[2].arguments == {"v": "$1"}
    assert task.tags["kind"] == "nested"
    assert row_to_task(task_to_row(task)) == task


@pytest.mark.parametrize("text", ["$5.city", "$0", "$0.city", "${1.city}", "${1}", "#1.city", "$3[0]"])
def test_text_that_is_meant_as_a_reference_and_can_be_none_is_a_fault(text: str) -> None:
    message = r"'v' is .* looks like a reference, .* the calls before it are 1 to 1.*\"references\": \{\"v\": null\}"
    with pytest.raises(DataError, match=message):
        second({"v": text})
    with pytest.raises(DataError, match=message):
        second({"v": {"x": [text]}})
    assert second({"v": text}, {"v": None}).arguments == {"v": text}


TEXTS = (
    "$1.5M", "$1.99/lb", "$5.", " $5 ", "<$5>", "$1,000", "$1/day", "$1-$5", "The fee is $1", "It is $1.Then we go.", "(1)",
    "[1]", "1", "1.city", "#general", "#E9", "{city}", "<b>", "<5>", "{{name}}", "$HOME", "$result9", "output1.json",
    "step 1", "result", "last", "@anna", "US$1", "$1 off", "a $5.city b", "{5}",
)  # fmt: skip


@pytest.mark.parametrize("text", ["$5", "$1.50", "#12", "#12 Main St", "$0.50", "${name}", "costs $0", "# 1.city", *TEXTS])
def test_sums_and_numbers_are_text(text: str) -> None:
    assert second({"v": text}).arguments == {"v": text}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("$1.items.0.id", "$1.items[0].id"),
        ("$1['city']", "$1.city"),
        ("$1[city]", "$1.city"),
        ("$1['the city']", '$1["the city"]'),
        ("{{$1.city}}", "$1.city"),
        ("{{ $1 }}", "$1"),
        ("{$1}", "$1"),
        ("${1}", "$1"),
        ("${1.city}", "$1.city"),
        ("${$1.city}", "$1.city"),
        (" $1 ", "$1"),
        ("$1.city\n", "$1.city"),
        ('"$1"', "$1"),
        ("`$1.city`", "$1.city"),
        ("($1)", "$1"),
        ("<$1>", "$1"),
        ("<1>", "$1"),
        ("{1}", "$1"),
        ("{{1.city}}", "$1.city"),
        ("$1.", "$1"),
        ("$1->city", "$1.city"),
        ("$1?.city", "$1.city"),
        ("#1", "$1"),
        ("#E1", "$1"),
        ("$result1", "$1"),
        ("$result_1", "$1"),
        ("{{step1}}", "$1"),
        ("<result of call 1>", "$1"),
        ("$1.items[-1]", None),
        ("$1.items[*].id", None),
        ("$1.items[0:2]", None),
        ("$1..city", None),
        ("$1.0.id", "$1[0].id"),
        ("$var_1.city$", None),
        ("{{step1.output.city}}", None),
        ("${step_1.result}", None),
        ("{{steps[0].city}}", None),
        ("$prev.city", None),
        ("{{previous}}", None),
        ("<last result>", None),
        ("API_call_0", None),
        ("step1.output", None),
        ("result of call 1", None),
        ("<GENERATED>-0", None),
    ],
)
def test_what_is_meant_as_a_reference_is_no_text(text: str, right: str | None) -> None:
    for value in (text, [text], {"x": text}):
        with pytest.raises(DataError) as error:
            second({"v": value})
        assert "looks like a reference, but can be none: the calls before it are 1 to 1" in str(error.value)
        hint = "" if right is None else f"; did you mean {json.dumps(right)}?"
        assert f'is written "$1" or "$1.city"{hint} (if it is text' in str(error.value)
    assert second({"v": text}, {"v": None}).arguments == {"v": text}
    row = {"id": "t", "messages": [{"role": "user", "content": "q"}], "tools": TOOL_ROWS}
    task = row_to_task(row | {"gold": [FIND, {"name": "use", "arguments": {"v": text}, "references": {"v": None}}]})
    assert row_to_task(task_to_row(task)) == task


@pytest.mark.parametrize("text", ["Rain in $1.city?", "{{$1}}, now", "in ${1.city}", "in {$1.city}!", "$1.items[0] and $1.zip"])
def test_a_reference_within_other_text_is_no_text(text: str) -> None:
    with pytest.raises(DataError, match="looks like a reference, but none is looked up within other text: write the text"):
        second({"v": text})
    assert second({"v": text}, {"v": None}).arguments == {"v": text}
    row = {"id": "t", "messages": [{"role": "user", "content": "q"}], "tools": TOOL_ROWS}
    task = row_to_task(row | {"gold": [FIND, {"name": "use", "arguments": {"v": text}, "references": {"v": None}}]})
    assert row_to_task(task_to_row(task)) == task


def test_the_first_call_has_nothing_to_refer_to() -> None:
    for text in ("#1", "{{result}}", "$result1", "<1>", " $1 "):
        assert read_gold([{"name": "use", "arguments": {"v": text}}], TOOLS)[0].arguments == {"v": text}


@pytest.mark.parametrize("text", ["$5.city", "$0", "${1.city}", "#1.city", "$1"])
def test_text_like_a_reference_is_written_so_that_it_is_read_back(text: str) -> None:
    gold = ({"name": "find", "arguments": {"city": text}, "references": {"city": None}},)
    row = {"id": "t", "messages": [{"role": "user", "content": "q"}], "tools": TOOL_ROWS, "gold": list(gold)}
    task = row_to_task(row)
    assert row_to_task(task_to_row(task)) == task


@pytest.mark.parametrize("result", [None, {"of": None}, {"of": [1]}])
def test_what_a_parameter_does_not_take_is_refused_in_every_notation_of_a_reference(result: Any) -> None:
    """Not relaxed in one of them, and dropped in another."""
    written = "$1" if result is None else "$1.of"
    value = None if result is None else result["of"]
    for arguments, references in (
        ({"city": written}, None),
        ({"city": value}, {"city": written}),
        ({"city": written}, {"city": written}),
    ):
        with pytest.raises(DataError, match=r"'city' refers to .*, and the tool does not take that"):
            second(arguments, references, name="say", first=FIND | {"result": result})
