"""Tools and calls in a model family's own form, as its chat template writes them.

Nothing is known about families here: the template is made to write a call, and its text after the user's words is the one
that the model would have written. Names and values in it are data. Wherever they spell a mark of the family, a private-use
character splits it while the template runs, and its tokens are cut there. Sampled ids are read in the same way: a mark counts
if it is the real token, and not if plain characters spell it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from cahl_pl.errors import ConfigError
from cahl_pl.prompts import thoughts
from cahl_pl.prompts.template import GUARD, ChatTemplate
from cahl_pl.types import ToolCall, ToolSpec

_ENDS: Final = ("<|call|>", "<|eom_id|>", "<|observation|>", "<|tool_response>")
"""Tokens by which some families end only turns that call: gpt-oss, Llama 3, GLM, Gemma 4."""

_UNWRITTEN: Final = {
    "<|tool_call|>": ("<|tool_call|>[", ", ", "]"),  # Granite 3
    "<tool_call>": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),  # Falcon-H1
}
"""Mark -> text before, between and after calls, for templates that show tools and leave calls to the content."""

_TAG: Final = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_PRIVATE: Final = re.compile("[\ue000-\ue00f]")  # placeholders while a template runs

PROBE: Final = ToolSpec(
    "probe_tool",
    "Nobody calls it.",
    {
        "type": "object",
        "properties": {"text": {"type": "string"}, "count": {"type": "integer"}, "list": {"type": "array"}},
    },
)
"""Tool with whose calls a template is probed."""


class NativeCalls:
    """Writer of tools and calls for one chat template.

    Args:
        template: the base's template.

    Attributes:
        tags: marks in every turn that calls, whatever it calls: `<tool_call>`, `[TOOL_CALLS]`, ...; none if a call is
            bare JSON.

    Raises:
        ConfigError: the template does not show tools, or does not write calls.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self.tags: tuple[str, ...] = ()
        added = {i: token for i, token in template.tokenizer.added_tokens_decoder.items() if token.content.strip()}
        thought = {mark.strip() for marks in (template.marks, thoughts.PLAIN) for mark in marks[:2]}
        known = {token.content for token in added.values() if token.content in template.source} | thought
        control = {i: token.content for i, token in added.items() if token.special or token.content in known}
        self._control = control
        ends = {i for i, content in control.items() if content in _ENDS}
        self._enders = {*ends, template.end_of_turn, template.tokenizer.eos_token_id}
        self._spelled = _any_of(control.values())
        self._marks = _any_of([*control.values(), *thought])
        self._in_json = False
        self._write = self._first_writer()
        *bare, _ = self.completion([ToolCall(PROBE.name, {})])
        found = _TAG.findall(template.text(bare).removeprefix(template.lead))
        self.tags = tuple(dict.fromkeys(tag for tag in found if PROBE.name not in tag and tag not in thought))
        self._marks = _any_of([*control.values(), *thought, *self.tags])
        self._in_json = '\\"' in self._write([ToolCall(PROBE.name, {"text": '"'})])

    # --- writing ---------------------------------------------------------------------------------------------------

    def tool(self, tool: ToolSpec) -> dict[str, Any]:
        """Return a tool in the form that chat templates accept, with the marks in it split."""
        function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
        return {"type": "function", "function": self._parted(function)}

    def completion(self, calls: Sequence[ToolCall]) -> list[int]:
        """Return calls as the model would have sampled them, end of turn included."""
        written = self._write(calls)
        if self._in_json:  # the escape means the same there, and readers of the text do not see a mark in it either
            written = re.sub(f"(.){GUARD}", lambda found: f"\\u{ord(found[1]):04x}", written, flags=re.DOTALL)
        ids = self.template.literal(written)
        end = next((place for place, i in enumerate(ids) if i in self._enders), None)
        if end is not None:
            return ids[: end + 1]
        return [*self.template.literal(written.rstrip()), self.template.end_of_turn]

    def in_dialogue(self, calls: Sequence[ToolCall]) -> list[int]:
        """Return calls instead of an earlier turn's words; nothing if the template cannot put them there."""
        lead = self.template.lead
        if thoughts.without_thought(lead, self.template.marks).strip():  # words have a separate header (gpt-oss)
            return []
        with contextlib.suppress(Exception):  # some templates refuse several calls
            ids = self.completion(calls)[:-1]
            return ids[len(self.template.literal(lead)) :] if self.template.text(ids).startswith(lead) else ids
        return []

    # --- reading ---------------------------------------------------------------------------------------------------

    def marked(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids with marks split that are spelled by tokens other than their own."""
        decode = self.template.text
        text = decode(ids)
        if len(self._spelled.findall(text)) == sum(i in self._control for i in ids):
            return text
        parts, start = [], 0
        for place, i in enumerate([*ids, None]):
            if i is None or i in self._control:
                parts.append(self._spelled.sub(_part, decode(ids[start:place])))
                parts.append("" if i is None else self._control[i])
                start = place + 1
        return "".join(parts)

    def unknown(self, why: str) -> ConfigError:
        """Return the error for a template whose form of calls is unknown."""
        return ConfigError(
            f"data.prompts.tool_format is native, but the chat template of {self.template.tokenizer.name_or_path!r} {why}: "
            "known are the forms of Hermes, Qwen, Qwen3-Coder, Llama 3, Mistral, Granite, GLM, Kimi, DeepSeek, Nemotron 3, "
            "Seed-OSS, Command, LFM2.5, Gemma 4 and gpt-oss, and what a response_template in the tokenizer reads; give a "
            "template with one of them in data.prompts.chat_template, or take another tool_format"
        )

    # --- by the template -------------------------------------------------------------------------------------------

    def _first_writer(self) -> Callable[[Sequence[ToolCall]], str]:
        """Return the first way of passing calls to the template in which it shows them."""
        asked: list[dict[str, str]] = [{"role": "user", "content": ""}]
        why = "shows no tools"
        with contextlib.suppress(Exception):  # whatever a template raises
            if PROBE.name in self.template.place(asked, [self.tool(PROBE)])[0][0][0]:
                why = "writes no calls"
        if why == "shows no tools":
            raise self.unknown(why)
        ways = [
            partial(self._turn, as_text=as_text, content=content) for as_text in (False, True) for content in ("", None)
        ]
        ways += [
            partial(self._unwritten, form=form) for mark, form in _UNWRITTEN.items() if mark in self.template.source
        ]
        for write in ways:
            with contextlib.suppress(Exception):
                written = write([ToolCall(PROBE.name, {"text": "x", "count": 3})])
                # some templates write an object in Python's notation, and JSON text as JSON of that text
                if PROBE.name in written and "'text'" not in written and '\\"' not in written:
                    return write
        raise self.unknown(why)

    def _turn(self, calls: Sequence[ToolCall], as_text: bool, content: str | None) -> str:
        """Return the template's text after its generation prompt, with marks in names and values split."""
        made = []
        for number, call in enumerate(calls, start=1):
            arguments = self._parted(dict(call.arguments))
            given = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
            function = {"name": self._parted(call.name), "arguments": given}
            made.append(
                {"id": f"call{number:05}", "type": "function", "function": function}
            )  # Mistral requires nine characters
        return self.template.calls({"role": "assistant", "content": content, "tool_calls": made}, [self.tool(PROBE)])

    def _unwritten(self, calls: Sequence[ToolCall], form: tuple[str, str, str]) -> str:
        """Return the same for a template that cannot write calls, and whose family writes JSON between marks."""
        before, between, behind = form
        made = [{"name": self._parted(call.name), "arguments": self._parted(dict(call.arguments))} for call in calls]
        content = before + between.join(json.dumps(one, ensure_ascii=False) for one in made) + behind
        return self.template.calls({"role": "assistant", "content": content}, [self.tool(PROBE)])

    def _parted(self, value: Any) -> Any:
        """Return a value with the marks in its texts split."""
        if isinstance(value, str):
            return self._marks.sub(_part, _PRIVATE.sub("?", value))
        if isinstance(value, dict):
            return {self._parted(key): self._parted(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._parted(item) for item in value]
        return value


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _part(found: re.Match[str]) -> str:
    return f"{found[0][0]}{GUARD}{found[0][1:]}"
