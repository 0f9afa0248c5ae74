"""From tasks to token ids.

Three properties are kept here, because everything after relies on them:

- *Token in, token out.* A prompt is a list of ids. An episode only ever appends ids to it; nothing is re-tokenised.
- *Shared prefix first.* Tools, dialogue and request come before the role's own words, so that every prompt of a task
  starts with the same ids, whichever role reads it.
- *Data is not control.* Only text of the chat template may become a control token. Requests, tool descriptions,
  sub-tasks and feedback are tokenised apart from it, with special tokens split into plain characters.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cahl_pl.errors import ConfigError
from cahl_pl.parsing import format_call, format_subtask
from cahl_pl.prompts.tool_text import ToolFormat, tool_text
from cahl_pl.types import Message, Role, SubTask, Task, Trajectory

_PLACES = re.compile(r"\{(index|subtask|tool)\}")
_MARK = "\ue000{}\ue001"  # private-use characters: no template and no tokenizer gives them a meaning
_MARKS = re.compile("\ue000(\\d+)\ue001")

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


@dataclass
class PromptConfig:
    """The words around a task.

    Attributes:
        tool_format: `json`, one JSON-Schema function a line, as chat models are trained on; `compact`, one signature
            a line, several times shorter; `brief`, the signature with the first sentence of the description alone, at
            most `tool_text.MAX_WORDS` words of it, and the type instead of more than `MAX_ENUM` enum values; `names`, the name
            and that sentence without any parameters, where the executor reads them in `{tool}`.
        system: text before the list of tools.
        planner: what the planner reads after the request.
        executor: what the executor reads before each step; `{index}` and `{subtask}` are filled in, and `{tool}`, if it is
            there, by the tool that the sub-task names, or by nothing where it names none that is offered.
        executor_tool_format: how `{tool}` is written: with `tool_format: names`, the planner sees what tools are for, and the
            executor how the chosen one is called.
        single: what the executor reads instead, where it works without a planner.
        feedback: how an environment's answer is shown; `{feedback}` is filled in.
        chat_template: a Jinja chat template, or the path of a file with one, for tokenizers that have none.

    Raises:
        ValueError: a place is missing where something has to be filled in.
    """

    tool_format: ToolFormat = "json"
    system: str = "You are a helpful assistant with access to these tools:"
    planner: str = PLANNER_INSTRUCTION
    executor: str = EXECUTOR_INSTRUCTION
    executor_tool_format: ToolFormat = "json"
    single: str = SINGLE_INSTRUCTION
    feedback: str = "Result: {feedback}"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        for name, place in (("executor", "{subtask}"), ("feedback", "{feedback}")):
            if place not in getattr(self, name):
                raise ValueError(f"data.prompts.{name} lacks {place}: the model would never see what stands there")


class PromptBuilder:
    """Builder of both roles' prompts for one tokenizer.

    Attributes:
        end_of_turn: the id that ends an assistant turn: the first control token that the template writes behind one, the
            tokenizer's end of sequence where it writes none.

    Raises:
        ConfigError: the tokenizer has no chat template and none is configured, the configured file is missing, or the
            template cannot be used: it does not compile, or does not show what is said.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig | None = None) -> None:
        self.config = config or PromptConfig()
        self.tokenizer = tokenizer
        self._template = _read_template(self.config.chat_template) or tokenizer.chat_template
        if self._template is None:
            raise ConfigError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: give one in data.prompts.chat_template "
                "(a Jinja template or the path of a file), or use an instruction-tuned model"
            )
        # What the template writes between the end of an assistant turn and the start of the next one.
        turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
        try:
            parts, open_ = self._place(turns)
        except Exception as error:
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path!r} cannot be used ({_reason(error)}): give another one in "
                "data.prompts.chat_template"
            ) from error
        self._close_ids = self._literal(parts[2][0])
        self._open_ids = self._literal(open_)
        self._before_end, self.end_of_turn = self._find_end(turns[:2])
        at = self._close_ids.index(self.end_of_turn) + 1 if self.end_of_turn in self._close_ids else 0
        self._after_end = self._close_ids[at:]
        # Some templates open the thought in the generation prompt: an output goes on from there.
        self._opened = open_[open_.rfind("<think>") :] if open_.rfind("<think>") > open_.rfind("</think>") else ""

    @property
    def template_key(self) -> str:
        """What tells one template from another."""
        return hashlib.sha256(str(self._template).encode("utf-8", "replace")).hexdigest()[:16]

    def shared(self, task: Task) -> list[int]:
        """Return the ids that both roles' prompts of a task start with: tools, dialogue, request."""
        return self._split(task)[0]

    def invocation(self, role: Role, single_level: bool = False) -> list[int]:
        """Return the ids that a role's own words start with, up to the first value that is filled in."""
        template = self.config.single if single_level and role == "executor" else getattr(self.config, role)
        return self._data(_head(template)[0])

    def planner(self, task: Task) -> list[int]:
        """Return the planner's prompt (q, H, T)."""
        return self._prompt(task, self.config.planner, self.config.planner)

    def executor(self, task: Task, subtask: SubTask) -> list[int]:
        """Return the executor's prompt for the first sub-task: (q, H, T, z_1)."""
        return self._prompt(task, self.config.executor, self._executor_words(task, subtask, 1))

    def single(self, task: Task) -> list[int]:
        """Return the executor's prompt where it works without a planner: (q, H, T)."""
        return self._prompt(task, self.config.single, self.config.single)

    def thinks(self, output: Literal["plan", "action", "turn"]) -> Literal["no", "may", "opened"]:
        """Return whether an output may begin with a thought, or goes on from one that the template has opened.

        It may where the role's words or the system's text speak of `<think>`.
        """
        if self._opened:
            return "opened"
        config = self.config
        words = {"plan": config.planner, "action": config.executor, "turn": config.single}[output]
        return "may" if "<think>" in words or "<think>" in config.system else "no"

    def next_turn(self, ended: bool, feedback: Sequence[str]) -> list[int]:
        """Return what follows an output of an executor without a planner: the environment's answers to its calls, in order."""
        shown = "\n".join(self.config.feedback.replace("{feedback}", text) for text in feedback) + "\n\n"
        words = self._own(self.config.single, self.config.single)
        return self._close(ended) + self._data(shown) + words + self._open_ids

    def next_step(self, ended: bool, feedback: str, task: Task, subtask: SubTask, index: int) -> list[int]:
        """Return what follows an executor's output: the environment's answer and the next sub-task, (f_k, z_{k+1}).

        Args:
            ended: whether the output ended with its end-of-turn token (a truncated one did not).
            feedback: the environment's answer, empty for none.
            task: offers the tools.
            subtask: the next sub-task.
            index: its number in the plan, from 1.
        """
        shown = self.config.feedback.replace("{feedback}", feedback) + "\n\n" if feedback else ""
        words = self._own(self.config.executor, self._executor_words(task, subtask, index))
        return self._close(ended) + self._data(shown) + words + self._open_ids

    def completion(self, text: str) -> list[int]:
        """Return a gold output as the model would have sampled it, end of turn included.

        Where the template has opened a thought, it is closed first, without one.
        """
        closed = self._literal("\n</think>\n\n") if self._opened else []
        return [*closed, *self._data(text), *self._before_end, self.end_of_turn]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a sampled completion, without the token that ends it.

        Where the template's generation prompt ends within `<think>`, the text begins with that: it is a part of what the model
        has written, and `</think>` alone would be no thought. Control tokens anywhere else are written out: a model that strews
        them shall not be read as if it did not.
        """
        ended = len(ids) > 0 and (
            ids[-1] == self.end_of_turn or not self.tokenizer.decode(ids[-1:], skip_special_tokens=True)
        )
        return self._opened + str(self.tokenizer.decode(ids[: -1 if ended else None], skip_special_tokens=False))

    def _executor_words(self, task: Task, subtask: SubTask, index: int) -> str:
        planned = [tool for tool in task.tools if tool.name == subtask.tool]
        values = {
            "index": str(index),
            "subtask": format_subtask(subtask),
            "tool": "\n".join(tool_text(tool, self.config.executor_tool_format) for tool in planned),
        }
        # not str.format: the instruction is full of braces; in one pass: so are the values
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
        messages = _messages(task, self.config)
        try:
            parts, rest = self._place(messages)
        except Exception:  # a template without a system role, or one that wants turns to alternate (Gemma, Mistral)
            messages = _alternating(messages)
            try:
                parts, rest = self._place(messages)
            except Exception as error:
                raise ConfigError(
                    f"the chat template cannot take the dialogue of task {task.id!r} ({_reason(error)}): give another one in "
                    "data.prompts.chat_template, or leave the task out"
                ) from error
        ids: list[int] = []
        for literal, place in parts:
            ids += self._literal(literal) + self._data(messages[place]["content"])
        return ids, self._literal(rest)

    def _place(self, messages: list[dict[str, str]]) -> tuple[list[tuple[str, int]], str]:
        """Where the template puts each message: what it writes before it, and its index; and what it writes at the end.

        The order is the template's: some put the system's text into the last user turn. The last message has to come last.

        Raises:
            ValueError: a message is left out, or shown twice, or the last one does not come last.
            Exception: the template refuses these roles; whatever it raises.
        """
        fault: Exception | None = None
        for in_parts in (False, True):  # some templates take lists of parts alone
            marked = [_mark(message["role"], i, in_parts) for i, message in enumerate(messages)]
            try:
                text = self._render(marked)
            except Exception as error:
                fault = fault or error
                continue
            pieces = _MARKS.split(text)  # text, index, text, ..., text
            order = [int(index) for index in pieces[1::2]]
            if sorted(order) == list(range(len(messages))) and order[-1] == len(messages) - 1:
                return list(zip(pieces[::2], order, strict=False)), pieces[-1]
        left_out = "the template leaves a message out, shows it twice, or does not show the last one last"
        raise fault or ValueError(left_out)

    def _find_end(self, turns: list[dict[str, str]]) -> tuple[list[int], int]:
        """Return what the template writes behind an assistant turn before the id that ends it, and that id."""
        text = ""
        for in_parts in (False, True):
            marked = [_mark(turn["role"], i, in_parts) for i, turn in enumerate(turns)]
            with contextlib.suppress(Exception):
                text = text or self._render(marked, add_generation_prompt=False).partition(_MARK.format(1))[2]
        ids = self._literal(text)
        control = set(self.tokenizer.added_tokens_decoder)
        at = next((i for i, token in enumerate(ids) if token in control), None)
        if at is None:  # the template teaches no end: the tokenizer's own is taken
            return [], int(self.tokenizer.eos_token_id)
        return ids[:at], ids[at]

    def _close(self, ended: bool) -> list[int]:
        """Return what the template writes between an output and the next turn, less the part that an ended output has."""
        return self._after_end if ended else self._close_ids

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )

    def _literal(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _data(self, text: str) -> list[int]:
        # lone surrogates cannot be encoded: models write them, so they are replaced rather than refused
        text = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def dialogue(episode: Trajectory) -> list[Message]:
    """Return what an episode adds to the dialogue of the next one: calls with their answers, and answers in text."""
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


def _messages(task: Task, config: PromptConfig) -> list[dict[str, str]]:
    """Return the dialogue as every chat template can take it: system, then user and assistant turns."""
    dialogue = list(task.messages)
    system = "\n".join([config.system, *(tool_text(tool, config.tool_format) for tool in task.tools)])
    if dialogue and dialogue[0].role == "system":
        system = dialogue.pop(0).content + "\n\n" + system
    turns = [{"role": "system", "content": system}]
    for message in dialogue:
        turns.append(_turn(message, config))
    if turns[-1]["role"] != "user":  # the role's words go into a user turn, whatever came last
        turns.append({"role": "user", "content": ""})
    return turns


def _alternating(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the dialogue without a system role, neighbouring turns of one role as one."""
    turns: list[dict[str, str]] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + message["content"]
        else:
            turns.append({"role": role, "content": message["content"]})
    return turns


def _turn(message: Message, config: PromptConfig) -> dict[str, str]:
    if message.role == "tool":  # few templates know a tool role, and each in its own way
        return {"role": "user", "content": config.feedback.replace("{feedback}", message.content)}
    return {"role": message.role, "content": message.content}


def _mark(role: str, index: int, in_parts: bool = False) -> dict[str, Any]:
    text = _MARK.format(index)
    return {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_template(template: str | None) -> str | None:
    if template is None or "{" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise ConfigError(f"data.prompts.chat_template names the file {template!r}, which does not exist")
    return path.read_text(encoding="utf-8")
