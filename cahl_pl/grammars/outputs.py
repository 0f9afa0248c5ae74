"""Grammars of both roles' outputs: text that follows them is read by `cahl_pl.parsing` as a plan or a valid call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from cahl_pl.grammars.rules import TAGS, Rules, json_literal, literal
from cahl_pl.grammars.values import Values
from cahl_pl.prompts import PromptBuilder
from cahl_pl.types import Task, ToolSpec

Output: TypeAlias = Literal["plan", "action", "turn"]
"""Kind of output: a plan, an executor's output, or one of an executor that works without a planner."""

MAX_CALLS: Final = 16
"""Maximum calls in one turn of an executor that works without a planner."""

_CACHED: Final = 512


class Grammars:
    """Maker of grammars for the tools of tasks; recent ones are cached.

    Args:
        max_subtasks: maximum sub-tasks of a plan, as more would not be carried out.
    """

    def __init__(self, max_subtasks: int) -> None:
        self.max_subtasks = max_subtasks
        self._made: dict[Any, tuple[tuple[ToolSpec, ...], str]] = {}

    def of(self, output: Output, builder: PromptBuilder, task: Task) -> str:
        """Return the grammar of an output for a task.

        Args:
            output: kind of output.
            builder: prompt builder, which knows whether the output may begin with a thought.
            task: task that offers the tools.
        """
        key = (output, builder.thinks(output), id(builder.tokenizer), *map(id, task.tools))
        if key not in self._made:
            if len(self._made) >= _CACHED:
                self._made.clear()
            rules = Rules(special_tags(builder.tokenizer))
            make: dict[Output, Callable[[Rules, Sequence[ToolSpec]], str]] = {
                "plan": self._plan,
                "action": _action,
                "turn": _turn,
            }
            start = f"{_thought(rules, builder.thinks(output))}{make[output](rules, _distinct(task.tools))}"
            self._made[key] = task.tools, rules.text(start)  # keep the tools: their ids are unique while they live
        return self._made[key][1]

    def _plan(self, rules: Rules, tools: Sequence[ToolSpec]) -> str:
        more = ""
        for earlier in reversed(range(self.max_subtasks)):
            line = _line(rules, tools, earlier)
            more = rules.rule(f"{line} {more}?" if more else line)
        return f"{rules.tag('plan')} {literal(chr(10))} {more} {rules.tag('plan', closing=True)}"


def special_tags(tokenizer: Any) -> frozenset[str]:
    """Return the tags that are single tokens; see `Rules`."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return frozenset(text for name in TAGS for text in (f"<{name}>", f"</{name}>") if text in added)


def _distinct(tools: Sequence[ToolSpec]) -> list[ToolSpec]:
    """Return the tools, only the first of several with one name, as in the check of calls."""
    return list({tool.name: tool for tool in reversed(tools)}.values())[::-1]


def _thought(rules: Rules, thinks: Literal["no", "may", "opened"]) -> str:
    if thinks == "no":
        return ""
    rest = rules.rule(f"{rules.until('THOUGHT', 'think')} /\\n{{0,2}}/")
    return f"{rest} " if thinks == "opened" else f"({rules.tag('think')} {rest})? "


def _line(rules: Rules, tools: Sequence[ToolSpec], earlier: int) -> str:
    """Return one line of a plan, whose tool determines the parameters."""
    rests = [
        f"{json_literal(tool.name)} {literal(', ' + _PARAMETERS)} {Values(rules, tool.parameters, earlier).arguments()}"
        for tool in tools
    ]
    rests.append(literal(f"null, {_PARAMETERS}{{}}"))
    rest = rules.rule(" | ".join(rests))
    return rules.rule(f"{literal(_TASK)} {rules.terminal('SENTENCE')} {literal(_TOOL)} {rest} {literal(_LINE_END)}")


_TASK, _TOOL, _PARAMETERS, _LINE_END = '{"task": ', ', "tool": ', '"parameters": ', "}\n"


def _call(rules: Rules, tools: Sequence[ToolSpec]) -> str:
    calls = [
        f"{json_literal(tool.name)} {literal(', ' + _PARAMETERS)} {Values(rules, tool.parameters, None).arguments()}"
        for tool in tools
    ]
    body = rules.rule(" | ".join(calls))
    return rules.rule(
        f"{rules.tag('tool_call')} {literal(_NAME)} {body} {literal('}')} {rules.tag('tool_call', closing=True)}"
    )


_NAME = '{"name": '


def _answer(rules: Rules) -> str:
    return rules.rule(f"{rules.tag('answer')} {rules.until('TEXT', 'answer')}")


def _action(rules: Rules, tools: Sequence[ToolSpec]) -> str:
    return f"({_call(rules, tools)} | {_answer(rules)})" if tools else _answer(rules)


def _turn(rules: Rules, tools: Sequence[ToolSpec]) -> str:
    if not tools:
        return _answer(rules)
    call = _call(rules, tools)
    return f"({call} ({literal(chr(10))} {call}){{0,{MAX_CALLS - 1}}} | {_answer(rules)})"
