"""A tool that answered null has answered: from rows of every format to what an executor is taught to go on from."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from cahl_pl.datasets.formats.api_bank import dialogue_tasks
from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.jsonl import row_to_task, task_to_row
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.errors import DataError
from cahl_pl.prompts import PromptBuilder
from cahl_pl.rollout.gold import executor_examples, single_examples
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import NO_RESULT, GoldCall, Task, ToolSpec

SCHEMA = {"type": "object", "properties": {"key": {"type": ["string", "null"]}}, "required": ["key"]}
FUNCTION = {"name": "find", "description": "Find it.", "parameters": SCHEMA}
ASK = {"role": "user", "content": "Find it, then that."}
CALL = {"name": "find", "arguments": {"key": "a"}}
TEXT = json.dumps(CALL)


def own(*gold: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": FUNCTION}]
    return {"id": "r", "messages": [ASK], "tools": tools, "gold": list(gold)}


def test_null_is_a_result_and_a_field_that_is_left_out_is_none() -> None:
    task = row_to_task(own(CALL | {"result": None}, CALL))
    assert [gold.result for gold in task.gold] == [None, NO_RESULT]
    assert ["result" in gold for gold in task_to_row(task)["gold"]] == [True, False]
    assert row_to_task(task_to_row(task)) == task
    answers = [RecordedEnvironment().start(task).call(gold.call).text for gold in task.gold[:1]]
    assert answers == ["null"]


def test_that_there_is_none_stays_so_in_copies_and_other_processes() -> None:
    call = GoldCall("find", {})
    assert copy.deepcopy(call).result is NO_RESULT
    assert pickle.loads(pickle.dumps(call)).result is NO_RESULT


def test_references_lead_to_null() -> None:
    second = {"name": "find", "arguments": {"key": "$1"}}
    task = row_to_task(own(CALL | {"result": None}, second))
    assert (task.gold[1].arguments, task.gold[1].references) == ({"key": None}, {"key": "$1"})
    part = {"name": "find", "arguments": {"key": None}, "references": {"key": "$1.of"}}
    task = row_to_task(own(CALL | {"result": {"of": None}}, part))
    assert task.gold[1].planned.arguments == {"key": "$1.of"}


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        (CALL, {"key": "$1"}, "none is stored: give that call the field 'result'"),
        (CALL | {"result": None}, {"key": "$1.of"}, "the result is a single value, which has no .of"),
    ],
)
def test_references_to_what_is_not_there_are_refused(first: Any, second: Any, fault: str) -> None:
    with pytest.raises(DataError) as raised:
        row_to_task(own(first, {"name": "find", "arguments": second}))
    assert fault in str(raised.value)


def test_the_warm_start_goes_on_from_null(tiny_model: str) -> None:
    builder = PromptBuilder(PreTrainedTokenizerFast.from_pretrained(tiny_model), PROMPTS)
    second = {"name": "find", "arguments": {"key": "b"}}
    task = row_to_task(own(CALL | {"result": None}, second) | {"ordered": True})
    for examples in (executor_examples, single_examples):
        text = builder.decode(examples(builder, task)[1].prompt)
        assert "null" in text.rpartition('"a"')[2]
        assert "status" not in text


ANSWERED: dict[str, Any] = {
    "openai": {
        "messages": [
            ASK,
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": CALL}]},
            {"role": "tool", "tool_call_id": "1", "content": ...},
        ],
        "tools": [FUNCTION],
    },
    "openai-responses": {
        "input": [
            ASK,
            {"type": "function_call", "call_id": "1", **CALL},
            {"type": "function_call_output", "call_id": "1", "output": ...},
        ],
        "tools": [FUNCTION],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Find."},
            {"from": "function_call", "value": TEXT},
            {"from": "observation", "value": ...},
        ],
        "tools": [FUNCTION],
    },
    "hermes": {
        "messages": [
            ASK,
            {"role": "assistant", "content": f"<tool_call>{TEXT}</tool_call>"},
            {"role": "tool", "content": ...},
        ],
        "tools": [FUNCTION],
    },
    "anthropic": {
        "messages": [
            ASK,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "find", "input": {"key": "a"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": ...}]},
        ],
        "tools": [{"name": "find", "input_schema": SCHEMA}],
    },
    "toolace": {
        "system": json.dumps([FUNCTION]),
        "conversations": [
            {"from": "user", "value": "Find."},
            {"from": "assistant", "value": "[find(key='a')]"},
            {"from": "tool", "value": ...},
        ],
    },
    "glaive": {
        "system": f"SYSTEM: {json.dumps(FUNCTION)}",
        "chat": f"USER: q\n\n\nASSISTANT: <functioncall> {TEXT} <|endoftext|>\n\n\nFUNCTION RESPONSE: ...",
    },
}


def put(value: Any, answer: Any) -> Any:
    if isinstance(value, dict):
        return {key: put(item, answer) for key, item in value.items()}
    if isinstance(value, list):
        return [put(item, answer) for item in value]
    if isinstance(value, str) and value.endswith("..."):
        return value.replace("...", answer)
    return answer if value is ... else value


@pytest.mark.parametrize(
    ("form", "answer", "result"),
    [
        *((form, "null", None) for form in ANSWERED if form != "toolace"),
        ("toolace", "[null]", None),
        ("toolace", '[{"name": "find", "results": null}]', None),
        ("toolace", "nothing", NO_RESULT),
        ("openai", None, None),
        ("openai", {"rain": None}, {"rain": None}),
        ("openai", [{"type": "hotel"}], [{"type": "hotel"}]),
        ("openai", [{"type": "text", "text": "7"}], "7"),
        ("openai-responses", None, None),
        ("sharegpt", None, None),
        ("hermes", None, None),
        ("hermes", False, False),
        ("anthropic", None, ""),  # of a tool that has said nothing
        ("anthropic", [{"type": "text", "text": "null"}], None),
    ],
)
def test_null_is_read_where_tools_answer(form: str, answer: Any, result: Any) -> None:
    row = put(ANSWERED[form], answer)
    assert form_of(row) == form
    (task,) = FORMATS[form].tasks(row, "r")
    assert isinstance(task, Task)
    assert task.gold == (GoldCall("find", {"key": "a"}, result),)


def test_null_is_read_in_api_banks_dialogues() -> None:
    def lines(result: Any) -> list[Any]:
        said = {"role": "User", "text": "Find a."}
        return ["d", [said, {"role": "API", "api_name": "find", "param_dict": {"key": "a"}, "result": result}]]

    tools = {"find": ToolSpec("find", "Find it.", SCHEMA)}
    (task,) = dialogue_tasks(lines({"output": None, "exception": None}), tools)
    assert isinstance(task, Task)
    assert task.gold[0].result is None
    with pytest.raises(DataError, match="line 2: the field 'result' has no part 'output', what the tool answered"):
        list(dialogue_tasks(lines({"exception": None}), tools))
