"""Writing and reading of executor outputs, in our own form (`cahl_pl.parsing`) or in that of the base's family.

With `data.prompts.tool_format: native` calls are written by the chat template (`cahl_pl.prompts.native`). They are read by the
tokenizer's response template where it has one, and otherwise by the readers of data sets, which know the families' notations.
Answers are in `<answer>` tags either way. Reading is total: any ids yield a value, never an exception.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cahl_pl.datasets.call_objects import Call, read_function
from cahl_pl.datasets.declared_values import as_declared
from cahl_pl.datasets.formats.tagged import holds_tags, tagged_turn
from cahl_pl.datasets.notations import take_calls
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.parsing import (
    MAX_CALLS,
    format_turn,
    is_single_thought,
    parse_action,
    parse_turn,
    read_json,
    split_thought,
)
from cahl_pl.prompts import PromptBuilder, PromptConfig
from cahl_pl.prompts.native import PROBE
from cahl_pl.prompts.template import GUARD
from cahl_pl.schema.canonical import canonical
from cahl_pl.types import Action, ToolCall, ToolSpec, Turn

_GEMMA_4: Final = {
    "start_anchor": "<|turn>model\n",
    "defaults": {"role": "assistant"},
    "fields": {
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>[^{]+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "content": {"content": "text"},
    },
}
"""Gemma 4's response template for transformers' parser; its values are JSON except for the quotation marks."""


class _Read(NamedTuple):
    """An output in the family's own form."""

    calls: tuple[ToolCall, ...]
    well_formed: bool
    error: str | None = None


def builder_for(tokenizer: Any, prompts: PromptConfig, constrained: bool = False) -> PromptBuilder:
    """Return the prompt builder for a tokenizer, after checking that calls in the family's own form are read as written.

    Args:
        tokenizer: the base's tokenizer.
        prompts: the words around a task.
        constrained: whether outputs are to follow grammars.

    Raises:
        ConfigError: see `PromptBuilder`; or such calls are not read as written, the form being unknown, or have no grammar.
    """
    if constrained and prompts.tool_format == "native":
        raise ConfigError(
            "data.inference.constrained or data.rollout.constrained is true, but grammars know calls in our own form alone: "
            "set them to false, or data.prompts.tool_format to another one than native"
        )
    builder = PromptBuilder(tokenizer, prompts)
    if builder.native is not None:
        for arguments in ({}, {"text": 'a "b" <c>', "count": 3, "list": ["x", 4]}):
            call = ToolCall(PROBE.name, arguments)
            if not _is_read_back(builder, builder.native.completion([call]), [call], [PROBE]):
                raise builder.native.unknown("writes calls in a form that is not read here")
    return builder


def call_ids(builder: PromptBuilder, calls: Sequence[ToolCall], tools: Sequence[ToolSpec]) -> list[int]:
    """Return the output that makes these calls as the model would have sampled it, end of turn included.

    Raises:
        ConfigError: these calls cannot be written in the family's own form so that they are read back.
    """
    if builder.native is None:
        return builder.completion(format_turn(calls))
    with contextlib.suppress(Exception):  # a template may raise anything, e.g. if it writes one call per turn
        ids = builder.native.completion(calls)
        if _is_read_back(builder, ids, calls, tools):
            return ids
    raise ConfigError(
        f"data.prompts.tool_format is native, but the chat template cannot write {format_turn(calls)[:200]!r} so that it is "
        "read back as that: leave the row out, or take another tool_format"
    )


def read_action(builder: PromptBuilder, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Action:
    """Return the action in an executor's output; see `parse_action`.

    Args:
        builder: prompt builder.
        ids: sampled ids.
        tools: the tools offered, whose types decide how values between tags are read.
    """
    if builder.native is None:
        return parse_action(builder.decode(ids))
    turn = read_turn(builder, ids, tools)
    if len(turn.calls) > 1:
        return Action(error="there must be exactly one call")
    return Action(next(iter(turn.calls), None), turn.answer, turn.well_formed, turn.error)


def read_turn(builder: PromptBuilder, ids: Sequence[int], tools: Sequence[ToolSpec]) -> Turn:
    """Return the turn in the output of an executor without a planner; see `parse_turn`, and `read_action` for arguments."""
    if builder.native is None:
        return parse_turn(builder.decode(ids))
    text = builder.marked(ids)
    turn = parse_turn(text)
    if turn.answer is not None:
        return Turn((), turn.answer.replace(GUARD, ""), turn.well_formed, turn.thought)
    found = _read(builder, ids, text, tools)
    return Turn(found.calls, None, found.well_formed, turn.thought, found.error)


def _read(builder: PromptBuilder, ids: Sequence[int], text: str, tools: Sequence[ToolSpec]) -> _Read:
    assert builder.native is not None
    thought, said = split_thought(text)
    counts = [said.count(tag) for tag in builder.native.tags]
    if not all(counts):
        return _Read((), False, "there must be a call in the form of the chat template, or one <answer>...</answer>")
    if (
        max([*counts, said.count("<think>")]) > MAX_CALLS
    ):  # searching for the end of each takes quadratic time
        return _Read((), False, f"more than {MAX_CALLS} calls or thoughts that are not closed")
    try:
        response_template = getattr(builder.tokenizer, "response_template", None)
        if response_template is None and "<|tool_call>" in builder.native.tags and "call:" in said:
            response_template = _GEMMA_4
        if response_template is not None:
            rest, calls = _by_tokenizer(builder, ids, tools, response_template)
        elif any(map(holds_tags, builder.native.tags)):
            turn = tagged_turn(said, 0)
            rest, calls = turn.text, list(turn.calls)
        else:
            rest, calls = take_calls(said)
        made = tuple(_clean(as_declared(one.call, tools) if one.untyped else one.call) for one in calls)
    except (DataError, ValueError, RecursionError) as error:
        return _Read((), False, str(error).replace(GUARD, "")[:200])
    if not made:
        return _Read((), False, "there is no call, and no <answer>...</answer>")
    if len(made) > MAX_CALLS:
        return _Read((), False, f"more than {MAX_CALLS} calls")
    return _Read(made, is_single_thought(thought) and not rest.strip())


def _by_tokenizer(
    builder: PromptBuilder, ids: Sequence[int], tools: Sequence[ToolSpec], response_template: Mapping[str, Any]
) -> tuple[str, list[Call]]:
    """Return the text beside the calls, and the calls, as found by transformers' parser.

    Raises:
        ValueError: the parser cannot read the output.
    """
    assert builder.native is not None
    own, offered = response_template is not _GEMMA_4, [_offered(tool) for tool in tools]
    prompt = builder.template.text(builder.template.open_ids) if own else ""
    text = builder.native.marked(builder.without_end(ids))
    try:
        found = builder.tokenizer.parse_response(text, dict(response_template), prefix=prompt, tools=offered)
        calls = [Call(read_function(one["function"])) for one in found.get("tool_calls") or ()]
        return str(found.get("content") or ""), calls
    except Exception as error:  # from a third-party parser, whose template meets hostile text
        raise ValueError(f"the tokenizer's response template cannot read it: {error}") from None


def _offered(tool: ToolSpec) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name, "parameters": dict(tool.parameters)}}


def _clean(call: ToolCall) -> ToolCall:
    """Return a call without the characters that separated marks, after checking its size and depth.

    Raises:
        ValueError: a value is too large or not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        arguments = read_json(json.dumps(dict(call.arguments), ensure_ascii=False).replace(GUARD, ""))
    except TypeError:
        raise ValueError("a value that JSON does not have") from None
    return ToolCall(call.name.replace(GUARD, ""), arguments)


def _is_read_back(
    builder: PromptBuilder, ids: Sequence[int], calls: Sequence[ToolCall], tools: Sequence[ToolSpec]
) -> bool:
    read = read_turn(builder, ids, tools)
    names = [one.name for one in read.calls] == [call.name for call in calls]
    return read.well_formed and names and all(_same(*pair) for pair in zip(calls, read.calls, strict=True))


def _same(call: ToolCall, read: ToolCall) -> bool:
    """Return whether arguments were read as written; a value without a declared type may have become text, as in tags."""
    if call.arguments.keys() != read.arguments.keys():
        return False
    pairs = ((value, read.arguments[key]) for key, value in call.arguments.items())
    return all(
        canonical(value) == canonical(got) or (isinstance(got, str) and got in (json.dumps(value), str(value)))
        for value, got in pairs
    )
