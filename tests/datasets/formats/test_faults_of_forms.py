"""Rows that a converter takes for something else than they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.formats.table import FORMATS, form_of, nearest
from cahl_pl.datasets.formats.toolace import toolace_tasks
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.datasets.notations import take_calls
from cahl_pl.environments.recorded import RecordedEnvironment
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Task

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Look.", "parameters": PARAMETERS}
ASK = {"role": "user", "content": "Rain in Oslo?"}
CALL = {"name": "weather", "arguments": {"city": "Oslo"}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def dump(**more: Any) -> dict[str, Any]:
    """Return a row as NousResearch/hermes-function-calling-v1 has them: turns of ShareGPT, texts of Hermes."""
    system = f"You are a function calling AI model.\n<tools>\n{json.dumps(TOOLS)}\n</tools>\nUse the following pydantic model"
    turns = [
        ("system", f"{system} ... <tool_call>\n{{...}}\n</tool_call>"),
        ("human", "Rain in Oslo?"),
        ("gpt", f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>\n"),
        ("tool", '<tool_response>\n{"name": "weather", "content": {"rain": true}}\n</tool_response>\n'),
        ("gpt", "Yes."),
    ]
    said = [{"from": who, "value": text} for who, text in turns]
    return {"id": "d", "conversations": said, "category": "Weather", "task": "Rain"} | more


@pytest.mark.parametrize("name", ["hermes", "sharegpt"])
@pytest.mark.parametrize("shared", [True, False])
def test_calls_in_tags_are_read_by_either_name_in_either_turns(tmp_path: Path, name: str, shared: bool) -> None:
    row = dump()
    if not shared:
        roles = {"human": "user", "gpt": "assistant"}
        said = [{"role": roles.get(t["from"], t["from"]), "content": t["value"]} for t in row.pop("conversations")]
        row = {"messages": said} | row
    assert form_of(row) == "hermes"
    (tmp_path / "in.json").write_text(json.dumps([row]))
    assert convert(read_source(name, tmp_path / "in.json"), "in", tmp_path / "out.jsonl").counts == (1, 0, 0)
    task = JsonlDataset(tmp_path / "out.jsonl", strict=True)[0]
    assert task.gold == (GoldCall("weather", {"city": "Oslo"}, {"rain": True}),)
    assert [(m.role, m.content) for m in task.messages] == [
        ("system", "You are a function calling AI model."),
        ("user", "Rain in Oslo?"),
    ]


def test_the_converter_of_a_rows_form_is_named(tmp_path: Path) -> None:
    broken = dump(conversations=[*dump()["conversations"], {"from": "gpt"}])
    assert (form_of(broken), nearest(broken)) == (None, "hermes")
    with pytest.raises(DataError, match="its fields are most like those of hermes: convert-data hermes INPUT OUTPUT"):
        read_any(broken, "r")
    openai = {"messages": [ASK, {"role": "assistant", "tool_calls": [{"id": "1", "function": CALL}]}], "tools": TOOLS}
    for name, row, form in (
        ("openai", dump(), "hermes"),
        ("glaive", openai, "openai"),
        ("jsonl", openai, "openai"),
        ("xlam", {"id": "r", "messages": [ASK], "tools": TOOLS, "gold": [CALL]}, "jsonl"),
    ):
        (tmp_path / "in.json").write_text(json.dumps([row]))
        with pytest.raises(DataError, match=f"; the row is one of {form}: convert-data {form} INPUT OUTPUT"):
            convert(read_source(name, tmp_path / "in.json"), "in", tmp_path / "out.jsonl")


HAMMER = "[BEGIN OF AVAILABLE TOOLS]\n%s\n[END OF AVAILABLE TOOLS]\n[BEGIN OF QUERY]\nq\n[END OF QUERY]"


@pytest.mark.parametrize("code", ["```py\nx\n```", "```"])
@pytest.mark.parametrize(
    "output", ["```\n%s\n```", "%s", "```json\n%s\n```\n", "Here:\n```json\n%s\n```\nand ```no more```"]
)
def test_a_value_may_hold_fences(code: str, output: str) -> None:
    calls = json.dumps([{"name": "weather", "arguments": {"city": code}}])
    row = {"instruction": HAMMER % json.dumps([FUNCTION]), "input": "", "output": output % calls}
    if output.endswith("more```"):  # no fence is known to be the last one
        with pytest.raises(DataError, match="the field 'output': not JSON"):
            read_any(row, "r")
        row["output"] = output % calls.replace("`", "'")
        code = code.replace("`", "'")
    assert [dict(gold.arguments) for gold in read_any(row, "r").gold] == [{"city": code}]


def test_code_may_hold_the_mark_of_its_end() -> None:
    text, calls = take_calls('```tool_code\nweather(city="```")\n``` Done.')
    assert (text, [dict(one.call.arguments) for one in calls]) == ("Done.", [{"city": "```"}])


@pytest.mark.parametrize(
    "text",
    [
        "[x] Rain is likely (60 %).",
        "[1] says (so) that it rains.",
        "[Note (1)] It rains.",
        "[see](https://example.org/?a=(b)) It rains.",
        "[ ] Umbrella\n[x] Boots (rubber) [mine (old)]",
        "[citation needed]",
    ],
)
def test_a_text_that_starts_with_a_bracket_is_an_answer(text: str) -> None:
    turns = [{"from": "user", "value": "q"}, {"from": "assistant", "value": text}]
    row = {"system": json.dumps([FUNCTION]), "conversations": turns}
    (task,) = toolace_tasks(row, "r")
    assert isinstance(task, Task)
    assert (task.gold, task.answer) == ((), text)


@pytest.mark.parametrize(
    "text",
    [
        '[weather(city="Oslo"',
        '[weather(city="Oslo"), weather(city="Rome")] It rains.',
        "[weather (Oslo)]",
        "[wether(city=Oslo]",
        "[wether()] x",
    ],
)
def test_broken_calls_are_no_answer(text: str) -> None:
    turns = [{"from": "user", "value": "q"}, {"from": "assistant", "value": text}]
    (fault,) = toolace_tasks({"system": json.dumps([FUNCTION]), "conversations": turns}, "r")
    assert isinstance(fault, DataError)


def answered(form: str, answer: Any) -> dict[str, Any]:
    """Return a row of a form in which a tool has answered that."""
    if form == "anthropic":
        use = {"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "Oslo"}}
        result = {"type": "tool_result", "tool_use_id": "1", "content": answer}
        said = [ASK, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        return {"messages": said, "tools": [{"name": "weather", "description": "", "input_schema": PARAMETERS}]}
    if form == "openai-responses":
        call = {"type": "function_call", "call_id": "1", **CALL}
        return {
            "input": [ASK, call, {"type": "function_call_output", "call_id": "1", "output": answer}],
            "tools": TOOLS,
        }
    if form == "hermes":
        said = [ASK, {"role": "assistant", "content": f"<tool_call>{json.dumps(CALL)}</tool_call>"}]
        return {"messages": [*said, {"role": "tool", "content": answer}], "tools": TOOLS}
    call = {"id": "1", "type": "function", "function": CALL}
    said = [ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": answer}]
    return {"messages": said, "tools": TOOLS}


@pytest.mark.parametrize("form", ["openai", "openai-responses", "anthropic", "hermes"])
@pytest.mark.parametrize(
    ("answer", "result", "shown"),
    [
        ("42", "42", '"42"'),
        ("1.50", "1.50", '"1.50"'),
        ("true", "true", '"true"'),
        ("007", "007", '"007"'),
        ('"42"', "42", '"42"'),
        ("null", None, "null"),
        ("[42]", [42], "[42]"),
        ('{"n": 42}', {"n": 42}, '{"n": 42}'),
        # values of the row that are no text
        (42, 42, "42"),
        (False, False, "false"),
    ],
)
def test_an_answer_in_text_stays_text(form: str, answer: Any, result: Any, shown: str) -> None:
    row = answered(form, answer)
    assert form_of(row) == form
    (task,) = FORMATS[form].tasks(row, "r")
    assert isinstance(task, Task)
    (gold,) = task.gold
    assert (gold.result, type(gold.result)) == (result, type(result))
    assert RecordedEnvironment().start(task).call(gold.call).text == shown


def test_blank_ids_are_none(tmp_path: Path) -> None:
    calls = [{"id": "", "function": CALL | {"arguments": {"city": city}}} for city in ("Oslo", "Rome")]
    said = [ASK, {"role": "assistant", "tool_calls": calls}]
    said += [{"role": "tool", "tool_call_id": "", "content": text} for text in ("rain", "sun")]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": " ", "messages": said, "tools": TOOLS}))
    task = JsonlDataset(tmp_path / "rows.jsonl", strict=True)[0]
    assert (task.id, [gold.result for gold in task.gold]) == ("rows-0", ["rain", "sun"])


@pytest.mark.parametrize("form", ["xlam", "hammer", "openai"])
def test_a_blank_request_is_a_fault_in_every_form(tmp_path: Path, form: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "xlam": {"query": " \n", "tools": json.dumps([FUNCTION]), "answers": json.dumps([CALL])},
        "hammer": {"instruction": HAMMER.replace("\nq\n", "\n") % json.dumps([FUNCTION]), "output": json.dumps([CALL])},
        "openai": answered("openai", "x"),
    }
    if form == "openai":
        rows[form]["messages"][0] = ASK | {"content": "\t"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[form]))
    with pytest.raises(DataError, match="line 1: the request is blank: the user's last message has to say what"):
        JsonlDataset(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("field", "speaker", "text"), [("conversations", "from", "value"), ("messages", "role", "content")]
)
@pytest.mark.parametrize("dash", ["-", "_"])
def test_speakers_are_told_in_either_spelling_and_in_either_turns(
    field: str, speaker: str, text: str, dash: str
) -> None:
    """As in Locutusque/function-calling-chatml: Glaive's tools and calls in ShareGPT's turns."""
    call = '{"name": "weather", "arguments": \'{"city": "Land\'s End"}\'}'
    turns = [
        (
            "system",
            f"You help. You have access to the following functions. Use them if required -{json.dumps(FUNCTION)}",
        ),
        ("Human" if speaker == "from" else "user", "Rain?"),
        (f"function{dash}call", call),
        (f"function{dash}response", '{"rain": true}'),
        ("gpt" if speaker == "from" else "assistant", "Yes."),
    ]
    row = {field: [{speaker: who, text: said} for who, said in turns]}
    assert form_of(row) == "sharegpt"
    task = read_any(row, "r")
    assert task.gold == (GoldCall("weather", {"city": "Land's End"}, {"rain": True}),)
    assert [(m.role, m.content) for m in task.messages] == [("system", "You help."), ("user", "Rain?")]


def test_a_turn_of_loss_weight_0_is_not_learnt() -> None:
    row = answered("openai", "x")
    row["messages"][1]["loss_weight"] = 0.0
    with pytest.raises(DataError, match="not to be learnt"):
        read_any(row, "r")
