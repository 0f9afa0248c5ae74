"""Calls in the notations of model families: read as what they are, or a fault; never an answer in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cahl_pl.datasets.formats.table import FORMATS, form_of
from cahl_pl.datasets.jsonl import row_to_task
from cahl_pl.datasets.notations import take_calls
from cahl_pl.errors import DataError
from cahl_pl.types import Task

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "at": {"type": "object"},
        "temperatures": {"type": "array", "items": {"type": "number"}},
        "ok": {"type": "boolean"},
        "code": {"type": ["string", "null"]},
        "level": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "free": {},
    },
}
TOOLS = [{"name": name, "description": "Look.", "parameters": PARAMETERS} for name in ("weather", "clock")]
ARGUMENTS = {"city": "Oslo", "days": 2}
JSON = json.dumps(ARGUMENTS)
CALL = json.dumps({"name": "weather", "arguments": ARGUMENTS})
OTHER = '{"name": "clock", "arguments": {}}'
ONE, TWO = [("weather", ARGUMENTS)], [("weather", ARGUMENTS), ("clock", {})]
BAR, JOINT = "\uff5c", "\u2581"


def deepseek(*words: str) -> str:
    return f"<{BAR}{JOINT.join(words)}{BAR}>"


BEGIN, END, SEP = deepseek("tool", "call", "begin"), deepseek("tool", "call", "end"), deepseek("tool", "sep")
ALL, NO_MORE = deepseek("tool", "calls", "begin"), deepseek("tool", "calls", "end")
DSML = f"{BAR}DSML{BAR}"
KIMI = "<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
QWEN = "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>"
INVOKE = (
    '<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n<parameter name="days">2</parameter>\n</invoke>'
)
GLM = "<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>"

READ: dict[str, tuple[str, list[Any]]] = {
    "Mistral": (f'[TOOL_CALLS] [{CALL[:-1]}, "id": "abcdefghi"}}]</s>', ONE),
    "Mistral, two": (f"[TOOL_CALLS] [{CALL}, {OTHER}]", TWO),
    "Mistral 11": (f"[TOOL_CALLS]weather[ARGS]{JSON}[TOOL_CALLS]clock[ARGS]{{}}", TWO),
    "Mistral 13": (f"Sure. [TOOL_CALLS]weather[CALL_ID]abc123xyz[ARGS]{JSON}", ONE),
    "Llama 3": (f"<|python_tag|>{CALL.replace('arguments', 'parameters')}<|eom_id|>", ONE),
    "Llama 3, two": (f"<|python_tag|>{CALL}; {OTHER}", TWO),
    "Llama 3, bare": (CALL.replace("arguments", "parameters"), ONE),
    "Llama 3, a function": (f"<function=weather>{JSON}</function>", ONE),
    "Llama 3, built in": ('<|python_tag|>weather.call(city="Oslo", days=2)', ONE),
    "Llama 3, code": ('[weather(city="Oslo", days=2), clock()]', TWO),
    "Llama 4": ('<|python_start|>[weather(city="Oslo", days=2)]<|python_end|>', ONE),
    "DeepSeek 3": (
        f"{ALL}{BEGIN}function{SEP}weather\n```json\n{JSON}\n```{END}\n{BEGIN}function{SEP}clock\n```json\n{{}}\n```{END}{NO_MORE}",
        TWO,
    ),
    "DeepSeek 3.1": (f"Ok.{ALL}{BEGIN}weather{SEP}{JSON}{END}{BEGIN}clock{SEP}{{}}{END}{NO_MORE}", TWO),
    "DeepSeek 3.2": (
        f'<{DSML}function_calls>\n<{DSML}invoke name="weather">\n<{DSML}parameter name="city" string="true">Oslo'
        f"</{DSML}parameter>\n"
        f'<{DSML}parameter name="days" string="false">2</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}function_calls>',
        ONE,
    ),
    "Qwen3-Coder": (f"Let me.\n<tool_call>\n{QWEN}\n</tool_call>", ONE),
    "Qwen3-Coder, two": (
        f"<tool_call>\n{QWEN}\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        TWO,
    ),
    "Qwen3-Coder, without tags": (QWEN, ONE),
    "Seed": (f"<seed:tool_call>\n{QWEN}\n</seed:tool_call>", ONE),
    "GLM": (f"<tool_call>weather\n{GLM}\n</tool_call>\n<tool_call>clock\n</tool_call>", TWO),
    "Hunyuan": (f"<tool_calls>\n<tool_call>weather<tool_sep>\n{GLM}\n</tool_call>\n</tool_calls>", ONE),
    "MiniMax 2": (f"<minimax:tool_call>\n{INVOKE}\n</minimax:tool_call>", ONE),
    "MiniMax 1": (f"<tool_calls>\n{CALL}\n{OTHER}\n</tool_calls>", TWO),
    "Anthropic's prompts": (f"<function_calls>\n{INVOKE}\n</function_calls>", ONE),
    "Kimi": (
        f"<|tool_calls_section_begin|>{KIMI.format(name='weather', number=0, arguments=JSON)}"
        f"{KIMI.format(name='clock', number=1, arguments='{}')}<|tool_calls_section_end|>",
        TWO,
    ),
    "Granite": (f"<|tool_call|>[{CALL}, {OTHER}]", TWO),
    "Granite 20B": (f"<function_call> {CALL}", ONE),
    "Phi-4-mini": (f"<|tool_call|>[{CALL}]<|/tool_call|>", ONE),
    "Phi": (f"functools[{CALL}]", ONE),
    "Functionary 3": (f">>>all\nSure.\n>>>weather\n{JSON}", ONE),
    "Functionary 2": (f"<|from|>assistant\n<|recipient|>weather\n<|content|>{JSON}<|stop|>", ONE),
    "NexusRaven": ("Call: weather(city='Oslo', days=2)<bot_end>\nThought: It is asked for.", ONE),
    "xLAM": (f'{{"thought": "x", "tool_calls": [{CALL}, {OTHER}]}}', TWO),
    "xLAM, a list": (f"```json\n[{CALL}]\n```", ONE),
    "OpenAI's, as text": (f'[{{"id": "x", "type": "function", "function": {CALL}}}]', ONE),
    "InternLM": (f"Hm.<|action_start|><|plugin|>\n{CALL}<|action_end|>", ONE),
    "gpt-oss": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        f"<|constrain|>json<|message|>{JSON}<|call|>",
        ONE,
    ),
    "gpt-oss, as its template writes it": (
        f"<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{JSON}<|call|>",
        ONE,
    ),
    "Command A": (
        f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "weather", "parameters": {JSON}}}]<|END_ACTION|>',
        ONE,
    ),
    "Command R": (f'Action: ```json\n[{{"tool_name": "weather", "parameters": {JSON}}}]```', ONE),
    "ReAct": (f"Thought: Hm.\nAction: weather\nAction Input: {JSON}", ONE),
    "Qwen-Agent": (f"✿FUNCTION✿: weather\n✿ARGS✿: {JSON}", ONE),
    "LFM2": ('<|tool_call_start|>[weather(city="Oslo", days=2)]<|tool_call_end|>', ONE),
    "OLMo 3": ('<function_calls>\nweather(city="Oslo", days=2)\nclock()\n</function_calls>', TWO),
    "Gemma": ('```tool_code\nweather(city="Oslo", days=2)\n```', ONE),
}

REFUSED: dict[str, tuple[str, str]] = {
    "FunctionGemma": (
        "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>",
        "<start_function_call>",
    ),
    "Gemma 4": ('<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>', "<|tool_call>"),
    "Step 3": (f'{BEGIN}function{SEP}<steptml:invoke name="weather"></steptml:invoke>', "no JSON follows"),
    "code of agents": ('Thought: x\nCode:\n```py\nr = weather(city="Oslo")\n```<end_code>', "the code weather(...)"),
    "CodeAct": ('<execute>weather(city="Oslo")</execute>', "the code weather(...)"),
    "smolagents": ('<code>\nprint(weather(city="Oslo"))\n</code>', "the code weather(...)"),
    "a printed call": ("```tool_code\nprint(weather(days=2))\n```", "'```tool_code'"),
    "a call in a call": ("Call: weather(city=clock())<bot_end>", "'clock()' is not a literal"),
    "an argument without a name": ("<|python_tag|>weather('Oslo')", "has no name"),
    "broken JSON": (f"[TOOL_CALLS] [{CALL[:-4]}", "'[TOOL_CALLS]': not JSON"),
    "broken Kimi": (KIMI.format(name="weather", number=0, arguments=JSON[:-3]), "not JSON"),
    "broken DeepSeek": (f"{ALL}{BEGIN}weather{SEP}", "no JSON follows"),
    "a list of arguments": ("[TOOL_CALLS]weather[ARGS][2]", "[TOOL_CALLS]"),
    "arguments that are text": ("Action: weather\nAction Input: Oslo", "no JSON follows, but 'Oslo'"),
    "a blob of ReAct": ('Action:\n```json\n{"action": "weather", "action_input": {}}\n```', "a notation that is not read"),
    "no end": ("<function=weather>\n<parameter=city>\nOslo", "there is no </function>"),
    "a tag without an end": (f"<tool_call>\n{QWEN}", "a <tool_call> is not closed"),
    "a parameter twice": (
        "<function=weather><parameter=city>a</parameter><parameter=city>b</parameter></function>",
        "the parameter 'city' appears twice",
    ),
    "text beside parameters": ("<function=weather>in <parameter=city>a</parameter></function>", "'in' is no parameter"),
    "words around JSON": (f"I do {CALL} now.", "JSON that names the tool 'weather'"),
    "another field for arguments": ('{"action": "weather", "action_input": {}}', "JSON that names the tool 'weather'"),
    "an empty section": (f"{ALL}{NO_MORE}", "holds a call"),
    "MiniMax without a call": ("<minimax:tool_call></minimax:tool_call>", "<minimax:tool"),
}

WORDS = (
    "It rains in Oslo (Norway) [1].",
    '{"name": "Oslo", "country": "Norway"}',
    "[1, 2]",
    "Call: +47 123, or write.",
    ">>> 1 + 1\n2",
    "Use `sum([1, 2])`:\n```python\nprint(sum([1, 2]))\n```",
    "The functions of weather are many.",
)


def row_of(form: str, text: str) -> dict[str, Any]:
    """Return a row of a format whose one turn of the assistant is this text."""
    if form == "sharegpt":
        turns = [{"from": "human", "value": "Rain?"}, {"from": "gpt", "value": text}]
        return {"conversations": turns, "tools": json.dumps(TOOLS)}
    tools: list[Any] = [{"type": "function", "function": tool} for tool in TOOLS]
    if form == "anthropic":
        tools = [{"name": tool["name"], "input_schema": PARAMETERS} for tool in TOOLS]
    return {"messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": text}], "tools": tools}


def only(row: dict[str, Any]) -> Task | DataError:
    form = form_of(row)
    assert form is not None
    try:
        (found,) = FORMATS[form].tasks(row, "r")
    except DataError as error:
        return error
    return found


def calls_of(task: Task | DataError) -> list[tuple[str, dict[str, Any]]]:
    assert isinstance(task, Task), task
    assert task.answer is None
    return [(gold.name, dict(gold.arguments)) for gold in task.gold]


@pytest.mark.parametrize("form", ["openai", "sharegpt"])
@pytest.mark.parametrize("family", READ)
def test_calls_are_read(family: str, form: str) -> None:
    text, expected = READ[family]
    assert calls_of(only(row_of(form, text))) == expected


@pytest.mark.parametrize("family", ["Qwen3-Coder, without tags", "Mistral", "ReAct", "Llama 3, code", "xLAM"])
def test_turns_that_are_said_to_be_calls_are_read_too(family: str) -> None:
    row = row_of("sharegpt", READ[family][0])
    row["conversations"][1]["from"] = "function_call"
    assert calls_of(only(row)) == READ[family][1]


@pytest.mark.parametrize("form", ["openai", "sharegpt"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(kind: str, form: str) -> None:
    text, said = REFUSED[kind]
    found = only(row_of(form, text))
    assert isinstance(found, DataError), found
    assert said in str(found)


@pytest.mark.parametrize("text", WORDS)
def test_words_are_an_answer(text: str) -> None:
    found = only(row_of("openai", text))
    assert isinstance(found, Task)
    assert (found.gold, found.answer) == ((), text)


@pytest.mark.parametrize("text", ['{"tool_calls": []}', "[]"])
def test_a_list_of_no_calls_is_neither_a_call_nor_an_answer(text: str) -> None:
    found = only(row_of("openai", text))
    assert isinstance(found, Task)
    assert (found.gold, found.answer) == ((), None)


def test_what_is_said_beside_a_call_stays_in_the_dialogue_without_marks() -> None:
    assert take_calls(f"Sure. [TOOL_CALLS]weather[ARGS]{JSON}</s>")[0] == "Sure."
    assert take_calls(f"Ok.{ALL}{BEGIN}weather{SEP}{JSON}{END}{NO_MORE}")[0] == "Ok."
    row = row_of("openai", READ["Qwen3-Coder"][0])
    row["messages"] += [{"role": "tool", "content": "7"}, {"role": "assistant", "content": f"[TOOL_CALLS] [{OTHER}]"}]
    first, second = FORMATS["hermes"].tasks(row, "r")
    assert isinstance(second, Task)
    assert second.messages[1].content == (
        'Let me.\n<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}\n</tool_call>'
    )
    assert calls_of(first) == ONE
    assert calls_of(second) == [("clock", {})]


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        ("city", "Oslo", "Oslo"),
        ("city", "12", "12"),  # digits of a text stay text
        ("city", "true", "true"),
        ("city", '{"a": 1}', '{"a": 1}'),
        ("city", " two\n\nlines ", " two\n\nlines "),
        ("city", "a < b && c", "a < b && c"),
        ("days", "12", 12),
        ("days", "-3", -3),
        ("days", "many", "many"),  # refused or relaxed later
        ("ok", "true", True),
        ("ok", "True", True),
        ("ok", "false", False),
        ("at", '{"x": [1, null]}', {"x": [1, None]}),
        ("at", "{'x': True}", {"x": True}),
        ("temperatures", "[1, 2.5]", [1, 2.5]),
        ("code", "0123", "0123"),
        ("code", "null", None),
        ("code", "None", None),
        ("level", "7", 7),
        ("level", "null", None),
        ("free", "12", "12"),
        ("free", "[1]", [1]),
        ("unknown", "12", "12"),  # no tool takes it, which is said later
    ],
)
@pytest.mark.parametrize(
    "notation",
    [
        "<tool_call>\n<function=weather>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>weather\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>",
        '<minimax:tool_call><invoke name="weather"><parameter name="{key}">{value}</parameter></invoke></minimax:tool_call>',
    ],
    ids=["Qwen3-Coder", "GLM", "MiniMax"],
)
def test_values_are_of_the_types_that_the_tool_declares(notation: str, parameter: str, text: str, value: Any) -> None:
    written = notation.replace("{key}", parameter).replace("{value}", text)
    ((_, arguments),) = calls_of(only(row_of("openai", written)))
    assert arguments == {parameter: value}
    assert type(arguments[parameter]) is type(value)


@pytest.mark.parametrize(("value", "read"), [("Oslo\n", "Oslo\n"), ("\nOslo\n", "Oslo"), ("\nOslo", "\nOslo")])
def test_line_breaks_around_a_value_of_glm_are_its_own_unless_on_both_sides(value: str, read: str) -> None:
    written = f"<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
    ((_, arguments),) = calls_of(only(row_of("openai", written)))
    assert arguments == {"city": read}


@pytest.mark.parametrize("family", [family for family in READ if "code" not in family])
def test_a_row_of_ones_own_has_no_call_for_an_answer(family: str) -> None:
    row = {"id": "r", "messages": [{"role": "user", "content": "Rain?"}], "tools": TOOLS, "gold": []}
    with pytest.raises(DataError, match="the field 'answer' holds a call"):
        row_to_task(row | {"answer": READ[family][0]})
    assert row_to_task(row | {"answer": "It rains."}).answer == "It rains."
