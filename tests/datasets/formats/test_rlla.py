from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from cahl_pl.datasets import DataError, RllaDataset
from cahl_pl.schema import check_tool, find_problems
from cahl_pl.types import GoldCall, Message

CITY = '{"description": "Where.", "type": "str", "default": "Bern"}'
DAYS = '{"description": "", "type": "int, optional", "default": ""}'
NUMBERS = '{"description": "What to add.", "type": "List[float]", "default": ""}'
SYSTEM = f"""You are a helpful assistant.

**Available Tools**
In your response, you can use the following tools:
1. Name: Get Weather
Description: The weather.
Up to 3. Name: no tool.
Parameters: {{"city": {CITY}, "days": {DAYS}}}
2. Name: sum
Description: Adds.
Parameters: {{"numbers": {NUMBERS}, "f": {{"type": "Callable"}}}}

**Steps for Each Turn**
1. Name: not a tool
"""
DIALOGUE = """**Dialogue Records History**
<user> Weather in Bern?
And in <b>Rome</b>? </user>

<think> I should use the <tool_call>. </think>
<tool_call>
{"name": "Get Weather", "parameters": {"city": "Bern"}}
</tool_call>
<obs> [{"name": "Get Weather", "results": "sun"}] </obs>

<think> I should answer. </think>
<response> Sun. </response>

<user> Add 1 and 2. </user>
"""
OUTPUT = """<think> The <tool_call> is
<tool_call> easy. </think>
<tool_call>
{"name": "sum", "parameters": {"numbers": "[1.0, 2.0]"}}
{"name": "Get Weather", "parameters": {"days": "3"}}
</tool_call>"""


def row(system: str = SYSTEM, dialogue: str = DIALOGUE, output: str = OUTPUT) -> dict[str, Any]:
    return {"instruction": system, "input": dialogue, "output": output}


def load(folder: Path, *rows: Any, **options: Any) -> RllaDataset:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return RllaDataset(path, **options)


def test_a_row_becomes_a_task(tmp_path: Path) -> None:
    dataset = load(tmp_path, row())
    assert len(dataset) == 1
    task = dataset[0]
    assert task.id == "rows-0"
    assert task.messages == (
        Message("user", "Weather in Bern?\nAnd in <b>Rome</b>?"),
        Message("assistant", '<tool_call>\n{"name": "Get Weather", "parameters": {"city": "Bern"}}\n</tool_call>'),
        Message("tool", '[{"name": "Get Weather", "results": "sun"}]'),
        Message("assistant", "Sun."),
        Message("user", "Add 1 and 2."),
    )
    assert [(tool.name, tool.description) for tool in task.tools] == [
        ("Get Weather", "The weather.\nUp to 3. Name: no tool."),
        ("sum", "Adds."),
    ]
    assert [tool.parameters for tool in task.tools] == [
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where.", "default": "Bern"},
                "days": {"type": "integer"},
            },
        },
        {
            "type": "object",
            "properties": {
                "numbers": {"type": "array", "items": {"type": "number"}, "description": "What to add."},
                "f": {},
            },
        },
    ]
    assert task.gold == (GoldCall("sum", {"numbers": [1.0, 2.0]}), GoldCall("Get Weather", {"days": 3}))
    assert not task.ordered
    assert task.answer is None
    assert task.tags == {"kind": "multiple"}
    assert dataset.report.kept == ["rows-0"]


def test_rows_that_only_answer_have_no_gold_calls(tmp_path: Path) -> None:
    task = load(tmp_path, row(output="<think> t </think>\n<response> No such\ntool. </response>"))[0]
    assert (task.gold, task.answer, task.tags["kind"]) == ((), "No such\ntool.", "none")


def test_rows_may_call_and_answer(tmp_path: Path) -> None:
    output = '<tool_call>\n{"name": "sum", "parameters": {}}\n</tool_call>\n<response> Wait. </response>'
    task = load(tmp_path, row(output=output))[0]
    assert (task.gold, task.answer) == ((GoldCall("sum", {}),), "Wait.")


def test_a_dialogue_may_end_with_a_tools_answer(tmp_path: Path) -> None:
    dialogue = DIALOGUE[: DIALOGUE.index("</obs>") + len("</obs>")]
    assert load(tmp_path, row(dialogue=dialogue))[0].messages[-1].role == "tool"


def test_both_row_shapes_and_all_files_give_the_same_tasks(tmp_path: Path) -> None:
    shaped = {
        "data_source": "rlla",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": DIALOGUE}],
        "reward_model": {"style": "rule", "ground_truth": OUTPUT},
    }
    expected = load(tmp_path, row(), row())
    (tmp_path / "rows.json").write_text(json.dumps([row(), shaped], indent=1))
    parquet.write_table(pa.Table.from_pylist([shaped, shaped]), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        loaded = RllaDataset(tmp_path / name)
        assert [loaded[i] for i in range(2)] == [expected[i] for i in range(2)]


CALL = '<tool_call>\n{"name": "sum", "parameters": {"numbers": []}}\n</tool_call>'


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], "the field 'prompt'|an object with the field 'prompt', not a list"),
        ({"input": "", "output": ""}, "the field 'instruction' is missing"),
        ({**row(), "output": None}, "the field 'output' must be text, but is null"),
        ({"prompt": [1, 2]}, "the field 'prompt' must be a system message and a user message"),
        (row(system="no tools"), r"the field 'instruction': there is no section \*\*Available Tools\*\*"),
        (row(system=SYSTEM.replace("Parameters: {", "Parameters: [{", 1)), "'Get Weather': not JSON"),
        (
            row(system="**Available Tools**\n1. Name: f\nDescription: d\nParameters: 3"),
            "must be an object, not an integer",
        ),
        (
            row(system="**Available Tools**\n1. Name: f\nParameters: {}"),
            "the tool 'f.*must have the lines Name",
        ),
        (row(system=SYSTEM.replace('{"type": "Callable"}', "3")), "tool 'sum': the field 'f' must be an object"),
        (row(system=SYSTEM.replace('"f": {', '"numbers": {')), "the key 'numbers' appears twice"),
        (row(dialogue="hello"), "the field 'input': no turn of the dialogue starts at 'hello'"),
        (
            row(dialogue="<user> a </user> b"),
            "the field 'input': no turn of the dialogue starts at '<user> a",
        ),
        (row(dialogue=""), "the dialogue must end with a user's message or a tool's answer"),
        (
            row(dialogue="<user> a </user>\n<response> b </response>"),
            "the dialogue must end with a user's message",
        ),
        (
            row(output="<think> <response> x </response> </think>"),
            "the field 'output': there is neither a call",
        ),
        (row(output="<tool_call>\n</tool_call>"), "there is neither a call"),
        (row(output="<tool_call>\n{}\n</tool_call>"), "the call '{}': the field 'name' is missing"),
        (
            row(output="<tool_call>\n[]\n</tool_call>"),
            "the call '\\[\\]': there must be an object with the field 'name'",
        ),
        (row(output=CALL.replace("[]", "NaN")), "NaN is not JSON"),
        (row(output=CALL.replace("{", "(", 1)), "the field 'output': the call '.*': not JSON"),
    ],
)
def test_malformed_rows_are_named_with_place_and_field(tmp_path: Path, broken: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path, row(), broken, strict=True)
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")
    lenient = load(tmp_path, row(), broken)
    assert (len(lenient), [name for name, _ in lenient.report.dropped]) == (1, ["line 2"])


@pytest.mark.parametrize(
    ("name", "kept", "relaxed", "dropped", "kinds"),
    [
        ("rlla_sft.json", 370, 21, 9, {"none": 54, "single": 182, "multiple": 155}),
        ("rlla_4k_test.parquet", 72, 7, 1, {"none": 9, "single": 35, "multiple": 35}),
    ],
)
def test_real_rows(data_dir: Path, name: str, kept: int, relaxed: int, dropped: int, kinds: dict[str, int]) -> None:
    dataset = RllaDataset(data_dir / "rlla" / name)
    report = dataset.report
    assert (len(report.kept), len(report.relaxed), len(report.dropped)) == (kept, relaxed, dropped)
    tasks = [dataset[i] for i in range(len(dataset))]
    assert len(tasks) == kept + relaxed
    for task in tasks:
        assert [find_problems(gold.call, task.tools) for gold in task.gold] == [[]] * len(task.gold)
        assert len({tool.name for tool in task.tools}) == len(task.tools) > 0
        assert all(message.content for message in task.messages)
        assert task.gold or task.answer
    assert {kind: sum(task.tags["kind"] == kind for task in tasks) for kind in kinds} == kinds
    strict = RllaDataset(data_dir / "rlla" / name, on_contradiction="drop")
    assert (len(strict), len(strict.report.dropped)) == (kept, relaxed + dropped)


def test_real_schemas_are_valid_json_schema(data_dir: Path) -> None:
    dataset = RllaDataset(data_dir / "rlla" / "rlla_4k_test.parquet")
    for index in range(len(dataset)):
        for tool in dataset[index].tools:
            check_tool(tool, dataset[index].id)


def test_real_contradictions(data_dir: Path) -> None:
    report = RllaDataset(data_dir / "rlla" / "rlla_sft.json").report
    reasons, faults = dict(report.relaxed), dict(report.dropped)
    assert reasons["rlla_sft-204"] == "tool 'translate' is offered twice, the first is kept"
    assert reasons["rlla_sft-73"] == "gold call 1: parameter 'max_mass' of v1_planets: 0.5 is not of type 'integer'"
    assert reasons["rlla_sft-227"].endswith("'[[1.0' is not of type 'array'")
    assert faults["rlla_sft-130"].endswith(
        "gold call 2: no tool is named 'LastName varchar'; offered: createTable; correct the name, or offer the tool"
    )
    assert sum("is offered twice" in reason for reason in reasons.values()) == 1
    assert sum("has no parameter" in reason for reason in faults.values()) == 8
    assert sum("no tool is named" in reason for reason in faults.values()) == 1


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("output", "<tool_call>" * 100_000, "neither a call"),
        ("output", "<response>" * 100_000, "neither a call"),
        ("system", "**Available Tools**\n1. Name: f" + "\nDescription: " * 100_000, "must have the lines"),
    ],
)
def test_marks_without_end_take_no_quadratic_time(tmp_path: Path, field: str, text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(DataError, match=message):
        load(tmp_path, row(**{field: text}))
    assert time.process_time() - started < 5
