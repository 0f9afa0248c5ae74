"""Thoughts of a model before its answer, in the marks of its family, read as `<think>...</think>`.

The marks are control tokens in some families and plain text in others. Everything after the prompts knows only `<think>`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Marks(NamedTuple):
    """Marks that open and close a thought.

    Attributes:
        opening: text before it.
        closing: text after it, up to where the answer begins.
        between: text between two thoughts of one output, if a family has several; empty for none.
        before_call: texts that close it before a call, with the call's beginning; empty if that is `closing` too.
    """

    opening: str
    closing: str
    between: str = ""
    before_call: tuple[str, ...] = ()


PLAIN: Final = Marks("<think>", "</think>")

_OTHERS: Final = (
    # harmony, the channels of gpt-oss: https://cookbook.openai.com/articles/openai-harmony
    Marks(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|end|><|start|>assistant<|channel|>analysis<|message|>",
        ("<|end|><|start|>assistant<|channel|>commentary", "<|end|><|start|>assistant to="),
    ),
    Marks("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Marks("[THINK]", "[/THINK]"),  # Magistral, Ministral 3
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A, Command R7B
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("<|think|>", "<|end|><|begin|>assistant<|content|>"),  # Solar Open
)
_ENDS_A_LINE: Final = "\n</think>\n\n"  # as Qwen, DeepSeek and those after them write it


def marks_of(template: str, around: tuple[str, str] | None = None) -> Marks:
    """Return the marks that a chat template knows: `<think>` unless it names others.

    Args:
        template: the template, in Jinja.
        around: its texts before and after a thought, up to the answer; None if it shows none. A pair of tags there
            that mention thinking is its own (`<mm:think>`, `<think:opensource>`).
    """
    found = [marks for marks in _OTHERS if _word(marks.opening) in template and _word(marks.closing) in template]
    if found or around is None or is_between(around, PLAIN):
        return found[0] if found else PLAIN
    opening, closing = (
        re.search(r"<[^<>/]*think[^<>]*>\s*$", around[0]),
        re.match(r"\s*</[^<>]*think[^<>]*>", around[1]),
    )
    return Marks(opening[0].strip(), closing[0].strip()) if opening and closing else PLAIN


def is_between(around: tuple[str, str], marks: Marks) -> bool:
    """Return whether a thought is between marks; `around`: see `marks_of`."""
    before, behind = around
    return is_open(before, marks) and marks.closing.strip() in behind


def _word(mark: str) -> str:
    """Return the first of a mark's tokens: templates put the rest together from parts."""
    return (re.match(r"<\|?[^<>]*>|\[[^\[\]]*\]", mark) or ["<|channel>"])[0]


def is_open(text: str, marks: Marks) -> bool:
    """Return whether a text opens a thought without closing it."""
    return text.rfind(marks.opening.strip()) > text.rfind(marks.closing.strip())


def without_thought(text: str, marks: Marks) -> str:
    """Return a text without its last thought, open or closed, and without the white space after it."""
    before, opening, rest = text.rpartition(marks.opening.strip())
    return before + rest.partition(marks.closing.strip())[2].lstrip() if opening else text


def lead(generation_prompt: str, turn: str, marks: Marks) -> str:
    """Return a template's text after its generation prompt, before an answer that has no thought.

    Args:
        generation_prompt: its text after the user's words to have them answered.
        turn: its text between the user's words and those of an assistant.
        marks: marks of the family.
    """
    if turn.startswith(generation_prompt):
        written = turn[len(generation_prompt) :]
    else:  # an empty thought in only one of them, or a thought that the generation prompt opens
        bare, prompt = (without_thought(text, marks) for text in (turn, generation_prompt))
        written = bare[len(prompt) :] if bare.startswith(prompt) else ""
        closing = marks.closing.strip()
        if not is_open(generation_prompt, marks) and closing in generation_prompt and marks.opening.strip() not in turn:
            written = written.removeprefix(closing)  # the prompt has closed the thought already (DeepSeek-V3.2)
    if is_open(generation_prompt, marks) and marks.closing.strip() not in written:
        return end_of_thought("", marks) + written
    return written


def end_of_thought(lead: str, marks: Marks) -> str:
    """Return the text that closes a thought in the middle of it, up to where the answer begins; `lead`: see there."""
    if marks is not PLAIN:
        return marks.closing + without_thought(lead, marks) if marks.closing not in lead else lead
    _, closing, behind = lead.rpartition(marks.closing)
    return f"\n</think>{behind}" if closing else _ENDS_A_LINE + lead


def read(text: str, lead: str, marks: Marks) -> str:
    """Return an output with `<think>` instead of its family's marks, and without the text that introduces its answer.

    Marks that are written too often, or in another order, stay tags, so that the output is as badly formed as it was.
    """
    if marks is not PLAIN:
        if marks.between:
            text = text.replace(marks.between, "\n")
        for closing in marks.before_call:
            text = text.replace(closing, PLAIN.closing + closing.removeprefix("<|end|><|start|>assistant"))
        text = text.replace(marks.opening, PLAIN.opening).replace(marks.closing, PLAIN.closing)
    if lead.startswith(marks.closing.strip()) and text.lstrip().startswith(PLAIN.closing):
        text = text.lstrip().removeprefix(
            PLAIN.closing
        )  # the template's way to begin an answer without a thought (MiniMax-M3)
    thought, closing, answer = text.rpartition(PLAIN.closing)
    written = without_thought(lead, marks).rpartition(marks.closing.strip())[2].strip()
    if written and answer.lstrip().startswith(written):
        answer = answer.lstrip()[len(written) :]
    return thought + closing + answer
