"""Conversion of the model's text to values, and back. Reading is total: any string gives a value, never an exception.

Planner:  `<plan>`, one JSON object `{"task": ..., "tool": ..., "parameters": {...}}` per line, `</plan>`.
Executor: `<tool_call>{"name": ..., "parameters": {...}}</tool_call>` or `<answer>text</answer>`.
Executor without a planner: one or more such calls, or one answer.
Either may open with `<think>...</think>`; everything up to the last `</think>` is dropped before reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from cahl_pl.types import Action, Plan, SubTask, ToolCall, Turn

MAX_DEPTH: Final = 64
"""Deepest nesting of a value that is read: code that handles it later recurses, and must not run out of stack."""
MAX_DIGITS: Final = 300
"""Longest number that is read: a shorter one fits into a float, so that no later conversion overflows."""

MAX_CALLS: Final = 64
"""Most calls in one output: comparing them with gold calls takes time in proportion to both."""
MAX_SUBTASKS: Final = 64
"""Most sub-tasks of a plan: aligning them with gold calls takes time in proportion to both, and more."""

_PLAN_TAG: Final = re.compile(r"</?plan>")
_ACTION_TAG: Final = re.compile(r"</?(?:tool_call|answer)>")
_ANY_TAG: Final = re.compile(r"<(?=/?(?:think|plan|tool_call|answer)>)")


def parse_plan(text: str) -> Plan:
    """Read a planner's output.

    Strict, because a plan is read as a whole: text outside the tags, a tag that occurs twice or one bad line
    makes it no plan at all. Blank lines are skipped; a line without `parameters` has none.

    Args:
        text: what the planner wrote.

    Returns:
        The plan, or an empty one whose `error` says what is wrong.
    """
    _, text = split_thought(_printable(text))
    tags = list(islice(_PLAN_TAG.finditer(text), 3))
    if [tag.group() for tag in tags] != ["<plan>", "</plan>"]:
        return Plan(error="there must be one <plan> and one </plan> after it")
    opening, closing = tags
    if text[: opening.start()].strip() or text[closing.end() :].strip():
        return Plan(error="text outside the plan tags")
    subtasks: list[SubTask] = []
    for number, line in enumerate(text[opening.end() : closing.start()].split("\n"), start=0):
        if not line.strip():
            continue
        if len(subtasks) == MAX_SUBTASKS:
            return Plan(error=f"more than {MAX_SUBTASKS} sub-tasks")
        try:
            subtasks.append(_read_subtask(line))
        except ValueError as error:
            # The line of <plan> itself is line 0, so that the first line of a well laid-out plan is line 1.
            return Plan(error=f"line {number}: {error}")
    return Plan(tuple(subtasks)) if subtasks else Plan(error="empty plan")


def parse_action(text: str) -> Action:
    """Read an executor's output.

    Lenient where only one reading is possible: text around the tags leaves the call readable, but the output
    is then not well formed. Tags that are missing, repeated or nested and payloads with more than one call
    have no single reading: `error`, and no call. A blank answer is neither an answer nor well formed.

    Args:
        text: what the executor wrote.

    Returns:
        The call or the answer, or neither and an `error`. `well_formed` is R_l,form before the kind of tag
        is checked: after at most one leading `<think>...</think>`, exactly one element and white space
        around it.
    """
    thought, text = split_thought(_printable(text))
    tags = list(islice(_ACTION_TAG.finditer(text), 3))
    names = [tag.group() for tag in tags]
    if names not in (["<tool_call>", "</tool_call>"], ["<answer>", "</answer>"]):
        return Action(error="there must be exactly one <tool_call>...</tool_call> or <answer>...</answer>")
    opening, closing = tags
    outside = text[: opening.start()] + text[closing.end() :]
    well_formed = is_single_thought(thought) and not outside.strip()
    body = text[opening.end() : closing.start()].strip()
    if names[0] == "<answer>":
        if not body:
            return Action(error="the answer is blank")
        return Action(answer=body, well_formed=well_formed)
    try:
        return Action(call=_read_call(body), well_formed=well_formed)
    except ValueError as error:
        return Action(well_formed=well_formed, error=str(error))


def parse_turn(text: str) -> Turn:
    """Read an output of the executor that works without a planner.

    One or more `<tool_call>` elements, each with one JSON object or one per line, as chat models are trained to write
    several calls; or one `<answer>`. As in `parse_action`, text around them leaves the calls readable. One call that
    cannot be read makes all of them unreadable: what the others are worth without it is not known.

    Args:
        text: what was written.

    Returns:
        The calls or the answer, or neither and an `error`.
    """
    thought, text = split_thought(_printable(text))
    thinks = bool(re.search(r"<think>\s*[^\s<]", thought))
    tags = list(islice(_ACTION_TAG.finditer(text), 2 * MAX_CALLS + 1))
    names = [tag.group() for tag in tags]
    if names == ["<answer>", "</answer>"]:
        action = parse_action(text)
        well_formed = action.well_formed and is_single_thought(thought)
        return Turn((), action.answer, well_formed, thinks, action.error)
    if not names or names != ["<tool_call>", "</tool_call>"] * (len(names) // 2):
        return Turn(
            thought=thinks, error="there must be <tool_call>...</tool_call>, one a call, or one <answer>...</answer>"
        )
    edges = [0, *(edge for tag in tags for edge in tag.span()), len(text)]
    outside = "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 4))
    well_formed = is_single_thought(thought) and not outside.strip()
    calls: list[ToolCall] = []
    try:
        for i in range(0, len(tags), 2):
            calls += _read_calls(text[tags[i].end() : tags[i + 1].start()])
    except ValueError as error:
        return Turn((), None, well_formed, thinks, str(error))
    if len(calls) > MAX_CALLS:
        return Turn((), None, well_formed, thinks, f"more than {MAX_CALLS} calls")
    return Turn(tuple(calls), None, well_formed, thinks)


def format_plan(subtasks: Sequence[SubTask]) -> str:
    """Return the planner's output for these sub-tasks: `parse_plan` reads them back."""
    return "\n".join(["<plan>", *map(format_subtask, subtasks), "</plan>"])


def format_subtask(subtask: SubTask) -> str:
    """Return one line of a plan."""
    return _dump({"task": subtask.instruction, "tool": subtask.tool, "parameters": dict(subtask.parameters)})


def format_call(call: ToolCall) -> str:
    """Return the executor's output for this call: `parse_action` reads it back."""
    payload = _dump({"name": call.name, "parameters": dict(call.arguments)})
    return f"<tool_call>{payload}</tool_call>"


def format_turn(calls: Sequence[ToolCall]) -> str:
    """Return the output of an executor without a planner for these calls: `parse_turn` reads it back."""
    return "\n".join(map(format_call, calls))


def format_answer(text: str) -> str:
    """Return the executor's output for this answer: `parse_action` reads it back, stripped.

    A tag of the grammar within the text would end the answer early; its `<` is written `&lt;`.
    """
    return f"<answer>{_ANY_TAG.sub('&lt;', text)}</answer>"


def _dump(value: Mapping[str, Any]) -> str:
    # In JSON text a "<" occurs only within strings, where its escape means the same and is no tag.
    return _ANY_TAG.sub(r"\\u003c", json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Return the text with lone surrogates replaced: no tokenizer or file takes them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def split_thought(text: str) -> tuple[str, str]:
    """Return everything up to the last `</think>`, and the rest."""
    end = text.rfind("</think>")
    end = 0 if end < 0 else end + len("</think>")
    return text[:end], text[end:]


def is_single_thought(thought: str) -> bool:
    """Return whether this is empty, or one `<think>...</think>` with only white space before it."""
    if not thought:
        return True
    once = thought.count("<think>") == thought.count("</think>") == 1
    return once and thought.lstrip().startswith("<think>")


def _read_subtask(line: str) -> SubTask:
    fields = _read_object(line)
    instruction, parameters = fields.get("task"), fields.get("parameters", {})
    if not isinstance(instruction, str) or not instruction.strip():
        raise ValueError('"task" must be a text')
    if "tool" not in fields:
        raise ValueError('"tool" is missing')
    tool = fields["tool"]
    if tool is not None and (not isinstance(tool, str) or not tool.strip()):
        raise ValueError('"tool" must be a name or null')
    if not isinstance(parameters, dict):
        raise ValueError('"parameters" must be an object')
    return SubTask(instruction, tool, parameters)


def _read_call(payload: str) -> ToolCall:
    fields = _read_object(payload)
    name = fields.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError('"name" must be a name')
    if "parameters" in fields and "arguments" in fields:
        raise ValueError('"parameters" and "arguments" are both there')
    arguments = fields.get("parameters", fields.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise ValueError('"parameters" must be an object')
    return ToolCall(name, arguments)


def _read_calls(body: str) -> list[ToolCall]:
    """Return one call, or one per line; raises ValueError, and nothing else, with a short reason."""
    lines = [line for line in body.split("\n") if line.strip()]
    if len(lines) > 1:
        try:
            return [_read_call(body)]  # one object over several lines
        except ValueError:
            return [_read_call(line) for line in lines[: MAX_CALLS + 1]]
    return [_read_call(body)]


def read_json(text: str) -> Any:
    """Read JSON in which nothing is too large, too deep or repeated.

    Raises:
        ValueError: it is not such JSON; the message is a short reason. Nothing else is raised.
    """
    try:
        return _clean(_DECODER.decode(text.strip()), 0)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_object(text: str) -> dict[str, Any]:
    """Read one JSON object; raises ValueError, and nothing else, with a short reason."""
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _read_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _read_float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or not math.isfinite(value := float(digits)):
        raise ValueError("a number is too large")
    return value


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = {_printable(key): value for key, value in pairs}
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


_DECODER: Final = json.JSONDecoder(
    parse_int=_read_int,
    parse_float=_read_float,
    parse_constant=_reject_constant,
    object_pairs_hook=_read_pairs,
)


def _clean(value: Any, depth: int) -> Any:
    """Return the value without lone surrogates, which escapes can write; ValueError if it is nested too deeply."""
    if isinstance(value, str):
        return _printable(value)
    if not isinstance(value, (dict, list)):
        return value
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return {key: _clean(item, depth + 1) for key, item in value.items()}
    return [_clean(item, depth + 1) for item in value]
