"""Rows of other programs and data sets: each form is told, read as it is where it is one task, and converted."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from cahl_pl.datasets import JsonlDataset
from cahl_pl.datasets.convert import convert, read_source
from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.jsonl import read_any
from cahl_pl.errors import DataError
from cahl_pl.types import GoldCall, Message, Task, ToolSpec

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Look.", "parameters": PARAMETERS}
TOOL = ToolSpec("weather", "Look.", PARAMETERS)
OSLO = GoldCall("weather", {"city": "Oslo"})
ASKED = {"role": "user", "content": "Rain in Oslo?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
}
ANSWERED = {"role": "tool", "tool_call_id": "a", "content": '{"rain": true}'}
TAGGED = '<think>hm</think><tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TAGGED_SYSTEM = (
    f"You may call functions.\n<tools>\n{json.dumps({'type': 'function', 'function': FUNCTION})}\n</tools>\nNow go."
)
HAMMER = (
    "[BEGIN OF TASK INSTRUCTION]\nx\n[END OF TASK INSTRUCTION]\n\n[BEGIN OF AVAILABLE TOOLS]\n%s\n[END OF AVAILABLE TOOLS]\n\n"
    "[BEGIN OF FORMAT INSTRUCTION]\n```\n[]\n```\n[END OF FORMAT INSTRUCTION]\n\n"
    "[BEGIN OF QUERY]\nRain in Oslo?\n[END OF QUERY]"
)
FLAT = {"name": "weather", "description": "Look.", "parameters": {"city": {"type": "str"}}}

ROWS: dict[str, Any] = {
    "openai": {"messages": [ASKED, CALLED], "tools": [{"type": "function", "function": FUNCTION}]},
    "openai-responses": {
        "input": [ASKED, {"type": "reasoning", "summary": []}],
        "output": [{"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "Oslo"}'}],
        "tools": [{"type": "function", **FUNCTION}],
    },
    "anthropic": {
        "messages": [
            ASKED,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}}],
            },
        ],
        "tools": [{"name": "weather", "description": "Look.", "input_schema": PARAMETERS}],
    },
    "gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": "Rain in Oslo?"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "weather", "args": {"city": "Oslo"}}}]},
        ],
        "tools": [{"functionDeclarations": [FUNCTION]}],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Rain in Oslo?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        ],
        "tools": json.dumps([FUNCTION]),
    },
    "hermes": {
        "messages": [{"role": "system", "content": TAGGED_SYSTEM}, ASKED, {"role": "assistant", "content": TAGGED}],
    },
    "hammer": {
        "instruction": HAMMER % json.dumps([FLAT]),
        "input": "",
        "output": '```\n[{"name": "weather", "arguments": {"city": "Oslo"}}]\n```',
    },
    "xlam": {
        "query": "Rain in Oslo?",
        "tools": json.dumps([FLAT]),
        "answers": '[{"name": "weather", "arguments": {"city": "Oslo"}}]',
    },
    "glaive": {
        "system": f"SYSTEM: You are a helpful assistant with access to these functions. Use them -\n{json.dumps(FUNCTION)}",
        "chat": 'USER: Rain in Oslo?\n\n\nASSISTANT: <functioncall> {"name": "weather", "arguments": \'{"city": "Oslo"}\'} '
        "<|endoftext|>",
    },
    "tau-bench": {
        "instruction": "Rain in Oslo?",
        "actions": [{"name": "weather", "kwargs": {"city": "Oslo"}}],
        "tools": [{"type": "function", "function": FUNCTION}],
    },
    "nestful": {
        "input": "Rain in Oslo?",
        "output": json.dumps([{"name": "weather", "arguments": {"city": "Oslo"}, "label": "$var_1"}]),
        "tools": json.dumps([FUNCTION]),
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    assert form_of(ROWS[name]) == name
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[name]) + "\n" + json.dumps(ROWS[name] | {"id": "mine"}))
    loaded = JsonlDataset(path, strict=True)
    assert [task.id for task in (loaded[0], loaded[1])] == ["rows-0", "mine"]
    task = loaded[0]
    system = (Message("system", "You may call functions.\nNow go."),) if name == "hermes" else ()
    assert task.messages == (*system, Message("user", "Rain in Oslo?"))
    assert (task.tools, [gold.call for gold in task.gold]) == ((TOOL,), [OSLO.call])


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_converted(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([ROWS[name]]))
    report = convert(read_source(name, tmp_path / "rows.json"), "rows", tmp_path / "out.jsonl")
    assert report.counts == (1, 0, 0)
    task = JsonlDataset(tmp_path / "out.jsonl", strict=True)[0]
    assert ([gold.call for gold in task.gold], task.tools) == ([OSLO.call], (TOOL,))
    (tmp_path / "bad.json").write_text('[{"id": 1}, 3]')
    with pytest.raises(DataError, match="no row can be used; the first fault"):
        convert(read_source(name, tmp_path / "bad.json"), "bad", tmp_path / "out.jsonl")


def tasks(name: str, row: Any) -> list[Task | DataError]:
    return list(FORMATS[name].tasks(row, "r"))


LONG: dict[str, Any] = {
    "openai": ROWS["openai"] | {"messages": [ASKED, CALLED, ANSWERED, {"role": "assistant", "content": "Yes."}, ASKED,
                                             {"role": "assistant", "content": "As I said."}]},
    "anthropic": ROWS["anthropic"] | {
        "system": "Be brief.",
        "messages": [
            *ROWS["anthropic"]["messages"],
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": '{"rain": true}'}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
            ASKED,
            {"role": "assistant", "content": "As I said."},
        ],
    },
    "openai-responses": ROWS["openai-responses"] | {
        "output": [
            *ROWS["openai-responses"]["output"],
            {"type": "function_call_output", "call_id": "a", "output": '{"rain": true}'},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
            ASKED,
            {"role": "assistant", "content": "As I said."},
        ]
    },
    "sharegpt": ROWS["sharegpt"] | {
        "conversations": [
            *ROWS["sharegpt"]["conversations"],
            {"from": "observation", "value": '{"rain": true}'},
            {"from": "gpt", "value": "Yes."},
            {"from": "human", "value": "Rain in Oslo?"},
            {"from": "gpt", "value": "As I said."},
        ]
    },
    "hermes": {
        "messages": [
            *ROWS["hermes"]["messages"],
            {"role": "user", "content": '<tool_response>\n{"rain": true}\n</tool_response>'},
            {"role": "assistant", "content": "Yes."},
            ASKED,
            {"role": "assistant", "content": "As I said."},
        ]
    },
    "glaive": ROWS["glaive"] | {
        "chat": ROWS["glaive"]["chat"] + '\n\n\nFUNCTION RESPONSE: {"rain": true}\n\n\nASSISTANT: Yes. <|endoftext|>\n\n\n'
        "USER: Rain in Oslo?\n\n\nASSISTANT: As I said. <|endoftext|>"
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_a_dialogue_is_a_task_for_each_turn_that_calls_or_answers(name: str) -> None:
    called, answered = tasks(name, LONG[name])
    assert isinstance(called, Task)
    assert isinstance(answered, Task)
    assert called.gold == (GoldCall("weather", {"city": "Oslo"}, {"rain": True}),)
    assert (answered.gold, answered.answer, answered.tags) == ((), "As I said.", {"kind": "none"})
    roles = [message.role for message in answered.messages if message.role != "system"]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert answered.messages[-3].content == '{"rain": true}'
    # as one task, the last turn that calls
    assert read_any(LONG[name], "r").gold == called.gold


def test_parallel_answers_of_blocks_and_items_go_by_their_ids() -> None:
    use = [{"type": "tool_use", "id": i, "name": "weather", "input": {"city": i}} for i in "ab"]
    results = [{"type": "tool_result", "tool_use_id": i, "content": f'"{i}!"'} for i in "ba"]
    row = ROWS["anthropic"] | {
        "messages": [ASKED, {"role": "assistant", "content": use}, {"role": "user", "content": results}]
    }
    (task,) = tasks("anthropic", row)
    assert isinstance(task, Task)
    assert [gold.result for gold in task.gold] == ["a!", "b!"]
    calls = [
        {"type": "function_call", "call_id": i, "name": "weather", "arguments": f'{{"city": "{i}"}}'} for i in "ab"
    ]
    outputs = [{"type": "function_call_output", "call_id": i, "output": f'"{i}!"'} for i in "ba"]
    (task,) = tasks("openai-responses", ROWS["openai-responses"] | {"output": [*calls, *outputs]})
    assert isinstance(task, Task)
    assert [gold.result for gold in task.gold] == ["a!", "b!"]


@pytest.mark.parametrize(
    "chat",
    [
        # as the data have it: the letters AI have become a turn
        "USER: News on AI?\n\n\nASSISTANT: Here are some articles on recent developments in <|endoftext|>\n\n\n"
        "ASSISTANT:\n1. [AI and Machine Learning](https://www.example.com/ai) <|endoftext|>\n\n\n",
        'USER: I need a book, "\nASSISTANT: A Modern Approach", 2 copies. <|endoftext|>\n\n\nASSISTANT: Sure. <|endoftext|>',
    ],
)
def test_a_turn_of_glaive_that_was_cut_is_no_task(chat: str) -> None:
    found = list(FORMATS["glaive"].tasks(ROWS["glaive"] | {"chat": chat}, "r"))
    assert found
    assert all(
        isinstance(one, DataError) and "another text of the assistant follows at once" in str(one) for one in found
    )


def test_glaive_s_quotes_are_read() -> None:
    quoted = ROWS["glaive"] | {"chat": ROWS["glaive"]["chat"].replace('"Oslo"', '"King\\\'s Lynn"')}
    (task,) = tasks("glaive", quoted)
    assert isinstance(task, Task)
    assert task.gold[0].arguments == {"city": "King's Lynn"}


def test_outputs_of_earlier_calls_become_references() -> None:
    calls = [
        {"name": "find", "arguments": {"q": "Oslo"}, "label": "var1"},
        {"name": "use", "arguments": {"a": "$var1.id$", "b": ["$var1.items[1].x$"], "c": "$var1$"}, "label": "var2"},
        {"name": "var_result", "arguments": {"x": "$var2$"}},
    ]
    tools = [{"name": name, "query_parameters": {p: {"type": "string", "required": False} for p in "qabc"}} for name in
             ("find", "use")]  # fmt: skip
    (task,) = tasks("nestful", {"input": "q", "output": calls, "tools": tools})
    assert isinstance(task, Task)
    first, second = task.gold
    assert first.result == {"id": "var1.id", "items": ["var1.items[1].x (not used)", {"x": "var1.items[1].x"}]}
    assert second.references == {"a": "$1.id", "b": ["$1.items[1].x"], "c": "$1"}
    assert second.arguments == {"a": "var1.id", "b": ["var1.items[1].x"], "c": first.result}
    assert (task.ordered, task.tags) == (True, {"kind": "nested"})
    assert "required" not in task.tools[0].parameters
    calls[1]["arguments"] = {"a": "$var1.Ask Price$"}  # a field that is no name of Python's
    (task,) = tasks("nestful", {"input": "q", "output": calls, "tools": tools})
    assert isinstance(task, Task)
    assert task.gold[1].references == {"a": '$1["Ask Price"]'}
    assert task.gold[1].arguments == {"a": task.gold[0].result["Ask Price"]}
    for value, fault in (
        ("$var3.id$", "is the output of no earlier call"),
        ("x $var1.id$", "within other text"),
        ("3 * $var1.Ask Price$", "within other text"),
    ):
        calls[1]["arguments"] = {"a": value}
        with pytest.raises(DataError, match=fault):
            tasks("nestful", {"input": "q", "output": calls, "tools": tools})


def test_nestful_s_specification_declares_the_tools(tmp_path: Path) -> None:
    spec = [{"name": f"t{i}", "query_parameters": {"q": {"type": "string", "required": True}}} for i in range(9)]
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    (tmp_path / "rows.json").write_text(
        json.dumps([{"input": "q", "output": [{"name": "t3", "arguments": {"q": "x"}, "label": "var1"}]}])
    )
    source = read_source("nestful", tmp_path / "rows.json", [tmp_path / "spec.json"], num_distractors=2)
    assert convert(source, "rows", tmp_path / "out.jsonl").counts == (1, 0, 0)
    (tools,) = (task.tools for task in [JsonlDataset(tmp_path / "out.jsonl")[0]])
    assert len(tools) == 3
    assert "t3" in {tool.name for tool in tools}


ALPACA = {
    "Name": "Axolotl",
    "Function_Description": {
        "find": 'Find them.\nParameters: {"colour": "Required. string. One of: [white]. The colour.", '
        '"page": "integer. The page."}\n'
        "Output: A list.",
        "fact": "A fact.\nParameters: {}\nOutput: Text.",
        "components": "",
    },
    "Instructions": ["White ones?", "A fact?", "Both?"],
    "Golden_Answers": [
        [{"Action": "find", "Action_Input": '{"colour": "white", "page": 1}'}],
        [{"Action": "fact", "Action_Input": "{}"}],
        [{"Action": "find", "Action_Input": "{'colour': 'white'}"}, {"Action": "fact", "Action_Input": "none"}],
    ],
}


def test_an_api_of_toolalpaca_is_a_task_for_each_instruction() -> None:
    first, second, third = tasks("toolalpaca", ALPACA)
    assert isinstance(first, Task)
    assert isinstance(second, Task)
    assert first.gold == (GoldCall("find", {"colour": "white", "page": 1}),)
    schema = first.tools[0].parameters
    assert [schema["properties"][name]["type"] for name in ("colour", "page")] == ["string", "integer"]
    assert (schema["required"], first.tools[0].description) == (["colour"], "Find them.")
    assert [tool.name for tool in first.tools] == ["find", "fact"]
    assert (second.id, second.gold) == ("r-instruction-2", (GoldCall("fact", {}),))
    assert str(third).startswith("instruction 3: the field 'Action_Input' is text that is not JSON")
    with pytest.raises(DataError, match="each is several tasks: convert-data toolalpaca INPUT OUTPUT"):
        read_any(ALPACA, "r")


def test_tau_bench_s_files_are_read_and_not_run(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "weather.py").write_text(
        "import no_such_module\nclass W:\n    @staticmethod\n    def get_info():\n        return "
        f"{ {'type': 'function', 'function': FUNCTION}!r}\n"
    )
    (tmp_path / "tasks_train.py").write_text(
        "raise SystemExit\nTASKS = [\n    Task(annotator='0', user_id='u', instruction='Rain in Oslo?',\n"
        "         actions=[Action(name='weather', kwargs={'city': 'Oslo'})], outputs=[]),\n"
        "    Task(instruction=open('x'), actions=[]),\n]\n"
    )
    report = convert(read_source("tau-bench", tmp_path / "tasks_train.py"), "tau", tmp_path / "out.jsonl")
    assert report.counts == (1, 0, 1)
    assert "line 5: not plain values" in report.dropped[0][1]
    task = JsonlDataset(tmp_path / "out.jsonl")[0]
    assert (task.request, task.gold, task.tools) == ("Rain in Oslo?", (OSLO,), (TOOL,))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"query": "q", "tools": "[]", "answer": "[]"}, "most like those of xlam: convert-data xlam INPUT OUTPUT"),
        ({"query": "q", "calling": []}, "most like those of seal-tools: convert-data seal-tools INPUT OUTPUT"),
        ({"system": "s", "chats": "USER:"}, "most like those of glaive"),
        ({"content": [], "tools": []}, "no form that is known: cahl-pl convert-data --help"),  # tools say nothing
        (ROWS["openai"] | {"tools": None}, "the field 'tools' is missing: without the tools that were offered"),
        (ROWS["openai"] | {"messages": [ASKED]}, "the right calls are missing: the field 'messages' holds no turn"),
        (ROWS["sharegpt"] | {"conversations": [{"from": "alien", "value": "x"}]}, "'from' must be one of system, human"),
        (ROWS["hermes"] | {"messages": [{"role": "system", "content": "<tools>[</tools>"}, ASKED, {"role": "assistant",
         "content": "x"}]}, "the system text: not JSON"),
        (ROWS["hammer"] | {"output": "[{"}, "the field 'output': not JSON"),
        (ROWS["anthropic"] | {"messages": [{"role": "tool", "content": "x"}]}, "the role 'tool' must be user or assistant"),
        (
            ROWS["openai-responses"] | {"output": [{"type": "function_cal"}]},
            "the field 'input', item 3: there is no item of type 'function_cal'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_the_field_or_the_nearest_form(row: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        read_any(row, "r")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_without_tools_may_take_those_of_a_module() -> None:
    row = {"messages": [ASKED, CALLED]}
    assert read_any(row, "r", (TOOL,)).gold == (OSLO,)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("openai", {"tools": []}, "the field 'messages' is missing"),
        (
            "openai-responses",
            {"input": "q", "output": [[]], "tools": []},
            "item 2: an item must be an object, not a list",
        ),
    ],
)
def test_a_row_that_lacks_its_dialogue_is_told_in_a_sentence(name: str, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks(name, row)


@pytest.mark.parametrize("name", [name for name in FORMATS if name in ROWS])
def test_a_damaged_row_never_raises_anything_else(name: str) -> None:
    for field in ROWS[name]:
        for value in (None, 1, "", "x", [], [[]], [None], [{}], {}, {"a": 1}):
            for row in (ROWS[name] | {field: value}, {k: v for k, v in ROWS[name].items() if k != field}):
                with contextlib.suppress(DataError):
                    tasks(name, row)
