"""ToolRL's training format, rlla (arXiv 2504.13958): a row is one assistant step, often of several calls.

A row is `{"instruction", "input", "output"}` or `{"prompt": [system, user], "reward_model":
{"ground_truth"}}`; both hold the same three texts: a system prompt that lists the tools, the dialogue so far
flattened into one text, and the gold.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cahl_pl.datasets.loading import FileTasks, OnContradiction
from cahl_pl.datasets.rows import get_field, parse_json
from cahl_pl.datasets.task_parts import kind_of_gold, object_schema
from cahl_pl.datasets.type_names import type_schema
from cahl_pl.errors import DataError
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import GoldCall, Message, Task, ToolSpec


class RllaDataset(FileTasks):
    """Tasks from rlla rows: JSON list, JSON lines or parquet.

    Details that the format leaves open are read as follows:

    * No parameter is required: the format does not say which are, and gold calls leave out parameters
      whether they have a default or not.
    * Types are free text (`str, optional`, `List[int]`); an unknown one does not constrain the value.
    * The gold calls of a row are parallel: `ordered` is False, and no results are stored.
    * In the dialogue so far, thoughts are left out (they are placeholders), a turn that calls tools keeps its
      `<tool_call>` text, and a turn that answers keeps only the answer.

    Ids are `<file name without suffix>-<row, from 0>`; the tag `kind` is `none`, `single` or `multiple`
    (calls).

    Args:
        path: the file.
        on_contradiction: what to do with rows whose gold breaks their own schema: `relax` the schema there,
            or `drop` the row.
        strict: raise on the first row that cannot be read, instead of dropping it.

    Raises:
        DataError: the file cannot be read or no row of it can be used; with `strict`, also a row that cannot
            be read.
    """

    def __init__(self, path: str | Path, on_contradiction: OnContradiction = "relax", strict: bool = False) -> None:
        stem = Path(path).stem
        super().__init__(path, lambda row, index: rlla_task(row, f"{stem}-{index}"), on_contradiction, strict)


def rlla_task(row: Any, name: str) -> Task:
    """Return the task of a row; `name` becomes its id.

    Raises:
        DataError: naming the field at fault.
    """
    fields, (system, dialogue, output) = _texts(row)
    readers = (_tools, read_dialogue, _gold)
    parts: list[Any] = []
    for field, reader, text in zip(fields, readers, (system, dialogue, output), strict=True):
        try:
            parts.append(reader(text))
        except DataError as error:
            raise DataError(f"the field {field!r}: {error}") from None
    tools, messages, (gold, answer) = parts
    return Task(name, messages, tools, gold, answer=answer, tags={"kind": kind_of_gold(gold)})


def _texts(row: Any) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Return the names and the texts of the three fields."""
    if isinstance(row, dict) and "prompt" not in row:
        names = ("instruction", "input", "output")
        return names, (
            get_field(row, names[0], str),
            get_field(row, names[1], str),
            get_field(row, names[2], str),
        )
    prompt = get_field(row, "prompt", list)
    if [isinstance(turn, dict) and turn.get("role") for turn in prompt] != ["system", "user"]:
        raise DataError(
            "the field 'prompt' must be a system message and a user message, as in rlla, the only rows with a prompt that are "
            "read: write others as messages; docs/your-data.md says how"
        )
    system, dialogue = (get_field(turn, "content", str) for turn in prompt)
    output = get_field(get_field(row, "reward_model", dict), "ground_truth", str)
    return ("prompt[0].content", "prompt[1].content", "reward_model.ground_truth"), (system, dialogue, output)


_TOOLS = re.compile(r"^\*\*Available Tools\*\*\n(.*?)(?=^\*\*Steps for Each Turn\*\*|\Z)", re.MULTILINE | re.DOTALL)
_TOOL_START = re.compile(r"^\d+\. Name: ", re.MULTILINE)


def _tools(system: str) -> tuple[ToolSpec, ...]:
    section = _TOOLS.search(system)
    if section is None:
        raise DataError("there is no section **Available Tools**")
    return tuple(_tool(text) for text in _TOOL_START.split(section[1])[1:])


def _tool(text: str) -> ToolSpec:
    # No regular expression: one with both marks takes quadratic time on a text with many of them.
    name, mark, rest = text.partition("\nDescription: ")
    description, other_mark, parameters = rest.rpartition("\nParameters: ")
    if not (mark and other_mark):
        raise DataError(f"the tool {text[:60]!r} must have the lines Name, Description and Parameters")
    name, description = name.strip(), description.strip()
    try:
        declared = parse_json(parameters.strip())
        if not isinstance(declared, dict):
            raise DataError(f"they must be an object, not {kind_word(declared)}")
        properties = {parameter: flat_property(get_field(declared, parameter, dict)) for parameter in declared}
    except DataError as error:
        raise DataError(f"the parameters of tool {name!r}: {error}") from None
    return ToolSpec(name, description, object_schema(properties))


def flat_property(declared: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a parameter declared as `{"description", "type", "default"}`, its type in free text."""
    schema = type_schema(declared.get("type"))
    if declared.get("description"):
        schema["description"] = str(declared["description"])
    if declared.get("default") not in ("", None):  # "" is how the format writes "none"
        schema["default"] = declared["default"]
    return schema


_HISTORY = "**Dialogue Records History**"
_TURN = re.compile(
    r"\s*<(user|think|tool_call|obs|response)>(.*?)</\1>(?=\s*(?:<(?:user|think|tool_call|obs|response)>|\Z))",
    re.DOTALL,
)


def read_dialogue(dialogue: str) -> tuple[Message, ...]:
    """Return the turns of a dialogue that was flattened into tags, `<user> ... </user>` and so on.

    Raises:
        DataError: a turn cannot be read, or the last one is not the user's or a tool's.
    """
    text = dialogue.removeprefix(_HISTORY).rstrip()
    messages: list[Message] = []
    at = 0
    while at < len(text):
        turn = _TURN.match(text, at)
        if turn is None:
            raise DataError(f"no turn of the dialogue starts at {text[at : at + 40]!r}")
        at = turn.end()
        tag, content = turn[1], turn[2].strip()
        if tag == "user":
            messages.append(Message("user", content))
        elif tag == "obs":
            messages.append(Message("tool", content))
        elif tag == "tool_call":
            messages.append(Message("assistant", f"<tool_call>\n{content}\n</tool_call>"))
        elif tag == "response":
            messages.append(Message("assistant", content))
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError("the dialogue must end with a user's message or a tool's answer")
    return tuple(messages)


def _between(text: str, tag: str) -> str | None:
    """Return the text between the first opening tag and the last closing one."""
    _, opening, rest = text.partition(f"<{tag}>")
    inside, closing, _ = rest.rpartition(f"</{tag}>")
    return inside if opening and closing else None


def _gold(output: str) -> tuple[tuple[GoldCall, ...], str | None]:
    # Thoughts may mention <tool_call>: only the text after them counts.
    text = output.rpartition("</think>")[2]
    calls, response = _between(text, "tool_call"), _between(text, "response")
    lines = [line for line in calls.split("\n") if line.strip()] if calls else []
    if not lines and response is None:
        raise DataError("there is neither a call in <tool_call>...</tool_call> nor <response>...</response>")
    return tuple(_gold_call(line) for line in lines), None if response is None else response.strip()


def _gold_call(line: str) -> GoldCall:
    try:
        call = parse_json(line)
        return GoldCall(get_field(call, "name", str), get_field(call, "parameters", dict))
    except DataError as error:
        raise DataError(f"the call {line.strip()[:60]!r}: {error}") from None
