"""Conversion of tasks to token ids.

Three properties are guaranteed here, because everything after relies on them:

- *Token in, token out.* A prompt is a list of ids. An episode only ever appends ids to it; nothing is re-tokenised.
- *Shared prefix first.* Tools, dialogue and request come before the role's own words, so that every prompt of a task
  starts with the same ids, whichever role reads it.
- *Data is not control.* Only text of the chat template may become a control token. Requests, tool descriptions,
  sub-tasks and feedback are tokenised apart from it, with special tokens split into plain characters.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cahl_pl.errors import ConfigError, DataError
from cahl_pl.errors.encodings import decoded
from cahl_pl.parsing import format_call, format_subtask, parse_turn
from cahl_pl.prompts import thoughts
from cahl_pl.prompts.native import NativeCalls
from cahl_pl.prompts.template import ChatTemplate, reason
from cahl_pl.prompts.tool_text import ToolFormat, tool_text
from cahl_pl.types import Message, Role, SubTask, Task, Trajectory

_PLACES = re.compile(r"\{(index|subtask|tool)\}")
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)

PLANNER_INSTRUCTION = """\
Split the request above into the sub-tasks that it needs, in order. Write one JSON object per line:
<plan>
{"task": "what to do", "tool": "name of the tool", "parameters": {"parameter": "value"}}
</plan>
Use only the tools offered. A value that is the result of an earlier sub-task is written "$1", "$2", ...; a part of it, \
"$1.field" or "$1[0]".
If no tool is needed, write one sub-task with "tool": null."""

EXECUTOR_INSTRUCTION = """\
Carry out sub-task {index}: {subtask}
Write exactly one tool call:
<tool_call>{"name": "name of the tool", "parameters": {"parameter": "value"}}</tool_call>
Replace "$1", "$2", ... by the results seen above. If the sub-task needs no tool, write <answer>your answer</answer>."""

SINGLE_INSTRUCTION = """\
Do what the request above asks. Write the tool calls that it needs now, each as
<tool_call>{"name": "name of the tool", "parameters": {"parameter": "value"}}</tool_call>
Calls that need the result of another one come after you have seen it. If no call is left to make, write
<answer>your answer</answer>."""

# With the tools in the family's own form, the chat template determines how calls are written.
_NATIVE_EXECUTOR_INSTRUCTION = """\
Carry out sub-task {index}: {subtask}
Make exactly one tool call.
Replace "$1", "$2", ... by the results seen above. If the sub-task needs no tool, write <answer>your answer</answer>."""

_NATIVE_SINGLE_INSTRUCTION = """\
Do what the request above asks. Make the tool calls that it needs now.
Calls that need the result of another one come after you have seen it. If no call is left to make, write
<answer>your answer</answer>."""


@dataclass
class PromptConfig:
    """Text around a task.

    Attributes:
        tool_format: `json`, one JSON-Schema function per line, as chat models are trained on; `compact`, one signature per
            line, several times shorter, without the parameters' descriptions, defaults, bounds and patterns, which a tool's
            description has to give if they matter; `brief`, the signature with only the first sentence of the description,
            at most `tool_text.MAX_WORDS` words of it, and the type instead of more than `MAX_ENUM` enum values; `names`, the
            name and that sentence without any parameters, for when the executor reads them in `{tool}`; `native`, as the base's
            chat template shows tools, with the executor's calls as it writes them. Plans and answers are written as usual.
        system: text before the list of tools; with `native`, an empty one is left out.
        planner: text that the planner reads after the request.
        executor: text that the executor reads before each step; `{index}` and `{subtask}` are filled in, and `{tool}`, if
            present, by the tool that the sub-task names, or by nothing if that is not offered.
        executor_tool_format: format of `{tool}`: with `tool_format: names`, the planner sees the purpose of the tools, and
            the executor the parameters of the chosen one.
        single: text that the executor reads instead if it works without a planner.
        feedback: format of an environment's answer; `{feedback}` is filled in.
        chat_template: a Jinja chat template, or the path of a file with one, for tokenizers that have none; or the name of one,
            for tokenizers that have several.
        template_arguments: variables for the chat template, by the names that it reads, such as `enable_thinking: false`
            (Qwen3, SmolLM3) or `reasoning_effort: low` (gpt-oss).
        date: the day that a chat template writes into its prompts (Llama 3.2, gpt-oss, Granite 3), as YYYY-MM-DD, so that
            prompts stay the same from day to day. null: the day on which they are made.

    Raises:
        ValueError: a placeholder is missing, or `date` is not a date.
    """

    tool_format: Literal["json", "compact", "brief", "names", "native"] = "json"
    system: str = "You are a helpful assistant with access to these tools:"
    planner: str = PLANNER_INSTRUCTION
    executor: str = EXECUTOR_INSTRUCTION
    executor_tool_format: ToolFormat = "json"
    single: str = SINGLE_INSTRUCTION
    feedback: str = "Result: {feedback}"
    chat_template: str | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict)
    date: str | None = "2024-07-26"

    def __post_init__(self) -> None:
        if self.date is not None:
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError:
                raise ValueError(f"data.prompts.date must be a day such as 2024-07-26, not {self.date!r}") from None
        for name, place in (("executor", "{subtask}"), ("feedback", "{feedback}")):
            if place not in getattr(self, name):
                raise ValueError(f"data.prompts.{name} lacks {place}: the model would never see what stands there")
        if self.tool_format == "native":  # the template's instructions for calls replace ours
            if self.executor == EXECUTOR_INSTRUCTION:
                self.executor = _NATIVE_EXECUTOR_INSTRUCTION
            if self.single == SINGLE_INSTRUCTION:
                self.single = _NATIVE_SINGLE_INSTRUCTION


class PromptBuilder:
    """Builder of both roles' prompts for one tokenizer.

    Attributes:
        template: the tokenizer's template, or the configured one.
        native: writer of tools and calls in the template's own form; None if they have ours.
        end_of_turn: the id that ends an assistant turn, see `ChatTemplate`.
        end_of_thought: the ids that close a thought in the middle of it, up to where the answer begins.

    Raises:
        ConfigError: the tokenizer has no chat template and none is configured, the configured file is missing, or the
            template cannot be used; see `ChatTemplate` and `NativeCalls`.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig | None = None) -> None:
        self.config = config or PromptConfig()
        self.tokenizer = tokenizer
        native = self.config.tool_format == "native"
        source, given_as = _source_of(tokenizer, self.config.chat_template, native)
        arguments, date = self.config.template_arguments, self.config.date
        self.template = ChatTemplate(tokenizer, source, arguments, date, given_as, native)
        self.native = NativeCalls(self.template) if native else None
        self.end_of_turn = self.template.end_of_turn
        self.end_of_thought = self.template.literal(thoughts.end_of_thought(self.template.lead, self.template.marks))

    @property
    def plans_in_words(self) -> bool:
        """Whether plans can describe the arguments of calls only in words, since the planner reads no tool's parameters."""
        return self.config.tool_format == "names"

    @property
    def template_key(self) -> str:
        """Key that identifies a template with its arguments."""
        return self.template.key

    def shared(self, task: Task) -> list[int]:
        """Return the ids that both roles' prompts of a task start with: tools, dialogue, request."""
        return self._split(task)[0]

    def invocation(self, role: Role, single_level: bool = False) -> list[int]:
        """Return the ids with which a role's own words start, up to the first value that is filled in."""
        template = self.config.single if single_level and role == "executor" else getattr(self.config, role)
        return self._data(_head(template)[0])

    def planner(self, task: Task) -> list[int]:
        """Return the planner's prompt (q, H, T)."""
        return self._prompt(task, self.config.planner, self.config.planner)

    def executor(self, task: Task, subtask: SubTask) -> list[int]:
        """Return the executor's prompt for the first sub-task: (q, H, T, z_1)."""
        return self._prompt(task, self.config.executor, self._executor_words(task, subtask, 1))

    def single(self, task: Task) -> list[int]:
        """Return the prompt of an executor without a planner: (q, H, T)."""
        return self._prompt(task, self.config.single, self.config.single)

    def thinks(self, output: Literal["plan", "action", "turn"]) -> Literal["no", "may", "opened"]:
        """Return whether an output may begin with a thought, or continues one that the template has opened.

        It may if the role's words or the system's text mention `<think>`.
        """
        if self.template.opened:
            return "opened"
        config = self.config
        words = {"plan": config.planner, "action": config.executor, "turn": config.single}[output]
        return "may" if "<think>" in words or "<think>" in config.system else "no"

    def next_turn(self, ended: bool, feedback: Sequence[str], ended_by: int | None = None) -> list[int]:
        """Return the ids after an output of an executor without a planner: the environment's answers to its calls, in order."""
        shown = "\n".join(self.config.feedback.replace("{feedback}", text) for text in feedback) + "\n\n"
        words = self._own(self.config.single, self.config.single)
        return self.template.close(ended, ended_by) + self._data(shown) + words + self.template.open_ids

    def next_step(
        self, ended: bool, feedback: str, task: Task, subtask: SubTask, index: int, ended_by: int | None = None
    ) -> list[int]:
        """Return the ids after an executor's output: the environment's answer and the next sub-task, (f_k, z_{k+1}).

        Args:
            ended: whether the output ended with a token that ends a turn (a truncated one did not).
            feedback: the environment's answer, empty for none.
            task: the task, with the tools offered.
            subtask: the next sub-task.
            index: its number in the plan, from 1.
            ended_by: the id that the output ended with; None for `end_of_turn`.
        """
        shown = self.config.feedback.replace("{feedback}", feedback) + "\n\n" if feedback else ""
        words = self._own(self.config.executor, self._executor_words(task, subtask, index))
        return self.template.close(ended, ended_by) + self._data(shown) + words + self.template.open_ids

    def completion(self, text: str) -> list[int]:
        """Return a gold output as the model would have sampled it, end of turn included.

        It begins with the template's own text there, such as a thought that is closed at once.
        """
        lead = self.template.lead
        space = lead if lead.isspace() else ""  # together with the text, as the model has read it
        return [
            *self.template.literal(lead.removesuffix(space)),
            *self._data(space + text),
            *self.template.before_end,
            self.end_of_turn,
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a sampled completion, without the token that ends it.

        If the template's generation prompt ends within a thought, the text begins with that thought's opening, without which
        its end would not be read as a thought. A thought is in `<think>` tags, whatever the family's marks are.
        Control tokens anywhere else are written out: a model that scatters them must not be read as if it did not.
        """
        return self._read(self.without_end(ids))

    def marked(self, ids: Sequence[int]) -> str:
        """Return the same for reading calls in the family's own form: marks spelled by other tokens are split.

        See `NativeCalls.marked`; `native` must not be None.
        """
        assert self.native is not None
        return self._read(self.without_end(ids), self.native.marked)

    def breaks_off_in_thought(self, ids: Sequence[int]) -> bool:
        """Return whether an output breaks off within its thought."""
        text = self._read(ids).lstrip()
        return text.startswith(thoughts.PLAIN.opening) and thoughts.PLAIN.closing not in text

    def thinking_tokens(self, ids: Sequence[int]) -> int:
        """Return the number of tokens of an output's thought, up to the end of the marks that close it; 0 without one."""
        opening, closing = thoughts.PLAIN.opening, thoughts.PLAIN.closing
        text = self._read(ids)
        wanted = text.count(closing)
        if not wanted:
            return len(ids) if text.lstrip().startswith(opening) else 0
        fewest, enough = 1, len(ids)
        while fewest < enough:
            middle = (fewest + enough) // 2
            if self._read(ids[:middle]).count(closing) < wanted:
                fewest = middle + 1
            else:
                enough = middle
        return enough

    def without_end(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the ids of an output without the one that ends it."""
        last = ids[-1:]
        ended = len(last) > 0 and (
            last[0] == self.end_of_turn or not self.tokenizer.decode(last, skip_special_tokens=True)
        )
        return ids[:-1] if ended else ids

    def _read(self, ids: Sequence[int], decode: Callable[[Sequence[int]], str] | None = None) -> str:
        text = (decode or self.template.text)(ids)
        return thoughts.read(self.template.opened + text, self.template.lead, self.template.marks)

    def _executor_words(self, task: Task, subtask: SubTask, index: int) -> str:
        planned = [tool for tool in task.tools if tool.name == subtask.tool]
        values = {
            "index": str(index),
            "subtask": format_subtask(subtask),
            "tool": "\n".join(tool_text(tool, self.config.executor_tool_format) for tool in planned),
        }
        # not str.format: the instruction is full of braces; in one pass: the values may have some too
        return _PLACES.sub(lambda place: values[place[1]], self.config.executor)

    def _prompt(self, task: Task, template: str, words: str) -> list[int]:
        before, after = self._split(task)
        return before + self._data("\n\n") + self._own(template, words) + after

    def _own(self, template: str, words: str) -> list[int]:
        """Return a role's words, their head tokenised apart: an activated adapter is found by its ids."""
        head, _ = _head(template)
        return self._data(head) + self._data(words[len(head) :])

    def _split(self, task: Task) -> tuple[list[int], list[int]]:
        """Return the ids up to the end of the request, and those after the role's words (the assistant's header)."""
        plain = _messages(task, self.config, self.template.drops_thoughts)
        tools = None if self.native is None else [self.native.tool(tool) for tool in task.tools]
        refused: Exception | None = None
        # also for a template that requires alternating turns (Mistral), or has no system role (Gemma)
        for messages in (plain, _alternating(plain, system=True), _alternating(plain, system=False)):
            try:
                parts, rest = self.template.place(messages, tools)
                break
            except Exception as error:
                refused = error
        else:
            assert refused is not None
            raise ConfigError(
                f"the chat template cannot take the dialogue of task {task.id!r} ({reason(refused)}): give another one in "
                "data.prompts.chat_template, or leave the task out"
            ) from refused
        ids: list[int] = []
        for number, (literal, place) in enumerate(parts):
            written = literal.rstrip(" ")  # tokenizers join a space to the word after it
            ids += self.template.literal(written, begins=number == 0)
            called = self._called(messages[place])
            ids += self._data(literal[len(written) :] + ("" if called else messages[place]["content"])) + called
        return self.template.begin(ids), self.template.literal(rest)

    def _called(self, message: dict[str, str]) -> list[int]:
        """Return the ids of a turn of the dialogue that only calls, in the family's own form; none for any other.

        Dialogues have calls in our form. They stay so if the template cannot write calls instead of words.
        """
        if self.native is None or message["role"] != "assistant":
            return []
        turn = parse_turn(message["content"])
        return self.native.in_dialogue(turn.calls) if turn.well_formed and turn.calls else []

    def _data(self, text: str) -> list[int]:
        return self.template.data(text)


def dialogue(episode: Trajectory) -> list[Message]:
    """Return the messages that an episode adds to the next one's dialogue: calls with their answers, and answers in text."""
    messages = []
    for step in episode.steps:
        if step.action.call is not None:
            messages.append(Message("assistant", format_call(step.action.call)))
        elif step.action.answer is not None:
            messages.append(Message("assistant", step.action.answer))
        if step.feedback is not None and step.action.call is not None:
            messages.append(Message("tool", step.feedback.text))
    return messages


def _head(template: str) -> tuple[str, str]:
    """Return a template up to the first value that is filled in, and the rest."""
    place = _PLACES.search(template)
    start = place.start() if place else len(template)
    return template[:start], template[start:]


def _messages(task: Task, config: PromptConfig, drop_thoughts: bool) -> list[dict[str, str]]:
    """Return the dialogue in a form that every chat template accepts: system, then user and assistant turns."""
    dialogue = list(task.messages)
    listed = [] if config.tool_format == "native" else [tool_text(tool, config.tool_format) for tool in task.tools]
    system = "\n".join([config.system, *listed])
    if dialogue and dialogue[0].role == "system":
        system = "\n\n".join(text for text in (dialogue.pop(0).content, system) if text)
    turns = [{"role": "system", "content": system}] if system or config.tool_format != "native" else []
    for message in dialogue:
        turns.append(_turn(message, config))
        if drop_thoughts and message.role == "assistant":
            turns[-1]["content"] = _THOUGHT.sub("", message.content)
    if not turns or turns[-1]["role"] != "user":  # the role's words go into a user turn, whatever the last turn is
        turns.append({"role": "user", "content": ""})
    return turns


def _alternating(messages: list[dict[str, str]], system: bool) -> list[dict[str, str]]:
    """Return the dialogue with neighbouring turns of one role as one; `system`: with that role, else in the user's words."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role = "user" if message["role"] == "system" and (turns or not system) else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + message["content"]
        else:
            turns.append({"role": role, "content": message["content"]})
    return turns


def _turn(message: Message, config: PromptConfig) -> dict[str, str]:
    if message.role == "tool":  # few templates support a tool role, and each in its own way
        return {"role": "user", "content": config.feedback.replace("{feedback}", message.content)}
    return {"role": message.role, "content": message.content}


def _source_of(tokenizer: Any, configured: str | None, shows_tools: bool) -> tuple[str, str | None]:
    """Return the configured template and its name for errors, or the tokenizer's own and None.

    Of several, the one for tools is returned if it is to show tools.
    """
    own = getattr(tokenizer, "chat_template", None)
    named: dict[str, str] = own if isinstance(own, dict) else {}  # some models have one for each of several purposes
    if configured is not None and "{" not in configured:
        if configured in named:
            return named[configured], None
        path = Path(configured).expanduser()
        if not path.is_file():
            names = f", and the tokenizer's templates are {', '.join(sorted(named))}" if named else ""
            raise ConfigError(f"data.prompts.chat_template names the file {configured!r}, which does not exist{names}")
        try:
            text = decoded(path.read_bytes(), path).replace("\r\n", "\n")
            return text, f"the chat template in the file {configured!r}"
        except DataError as error:
            raise ConfigError(f"data.prompts.chat_template: {error}") from None
    source = (
        configured
        or (named.get("tool_use") if shows_tools else None)
        or named.get("default")
        or (own if isinstance(own, str) else None)
    )
    if source is None:
        which = (
            f"has several chat templates ({', '.join(sorted(named))}) and no default"
            if named
            else "has no chat template"
        )
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path!r} {which}: give one in data.prompts.chat_template "
            "(a Jinja template or the path of a file), or use an instruction-tuned model"
        )
    return source, None if configured is None else "the template in data.prompts.chat_template"
