"""Chat template: the parts around the turns of a dialogue, as text and as token ids.

Nothing is known about families here except their marks of thoughts (`thoughts`). Everything else is found by rendering short
dialogues in which private-use characters stand for the contents.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from cahl_pl.errors import ConfigError
from cahl_pl.prompts import thoughts

Turns = list[dict[str, str]]
Tools: TypeAlias = Sequence[Mapping[str, Any]] | None

_MARK = "\ue000{}\ue001"  # private-use characters: no template and no tokenizer gives them a meaning
GUARD: Final = "\ue002"
"""Character that splits a mark in text that is not the template's own, such as a tool's description: tokens are cut there."""
_MARKS = re.compile("\ue000(\\d+)\ue001")

_CLOCK = re.compile(r"\bstrftime_now\(\s*(?:'([^']*)'|\"([^\"]*)\")\s*\)")
# On its own line, whose end is removed with it: the template's output stays the same.
_STOPPED_CLOCK = "{% macro strftime_now(form) %}{{ cahl_pl_dates[form] or cahl_pl_dates[''] }}{% endmacro %}\n"
_OWN_VARIABLES = frozenset({"messages", "cahl_pl_dates"})


class ChatTemplate:
    """Chat template of one tokenizer, with its arguments.

    Args:
        tokenizer: a tokenizer of transformers.
        source: the template, in Jinja.
        arguments: variables for it.
        date: today's date for the template, as ISO; None for the day on which it is rendered.
        given_as: name for errors if a user has given it, such as "the chat template in my.jinja"; None for the
            tokenizer's own.
        shows_tools: whether it is to show tools: marks of calls within contents are then not tokens either.

    Attributes:
        source: the template.
        key: identifier of the template with its arguments.
        marks: its marks of thoughts.
        shows_thoughts: whether it writes thoughts at all, or names their marks.
        hides_thoughts: whether it writes thoughts in an unknown way, so that they cannot be told from answers.
        thinks_in_tokens: whether special tokens are among these marks.
        opened: the end of its generation prompt from where it opens a thought; empty if it opens none.
        lead: text that it writes after the generation prompt before an answer without a thought.
        open_ids: ids between a user's words and the output.
        before_end: ids that it writes after an answer before the one that ends it.
        end_of_turn: the id that ends an assistant turn: the first control token that it writes after one, or the one that
            begins the next turn at once (GLM), or the tokenizer's end of sequence.
        drops_thoughts: whether it leaves out the thoughts of earlier assistant turns.

    Raises:
        ConfigError: it cannot be used: it does not compile, does not show the contents, or does not know an argument.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str,
        arguments: Mapping[str, Any],
        date: str | None,
        given_as: str | None = None,
        shows_tools: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self._given = given_as is not None
        self._name = given_as or f"the chat template of {tokenizer.name_or_path!r}"
        self._shows_tools = shows_tools
        self._no_tools: Tools = None
        self._check_arguments(source, arguments)
        self._source, dates = _with_date(source, date)
        self._arguments = {**arguments, **dates}
        said = [self._source, json.dumps(self._arguments, sort_keys=True, default=str)]
        self.key = _digest("\n".join(said if self._arguments else said[:1]))
        self._sentinel: list[int] = []
        self._parting = re.compile("(?!)")
        self._find_prefix_space()
        # Its text between the end of an assistant turn and the start of the next one.
        turns: Turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
        try:
            parts, open_ = self._place_first(turns)
        except Exception as error:
            self._check_without(source, arguments, date, reason(error))
            raise self._unusable(error) from error
        first, close = parts[0][0], parts[2][0]
        _, between, behind = self._written(turns[:2])
        around = self._around_thought()
        self.marks = thoughts.marks_of(source, around)
        self.shows_thoughts = around is not None or self.marks is not thoughts.PLAIN or self.marks.opening in source
        self.hides_thoughts = around is not None and not thoughts.is_between(around, self.marks)
        self.opened = open_[open_.rfind(self.marks.opening.strip()) :] if thoughts.is_open(open_, self.marks) else ""
        self.lead = thoughts.lead(open_, between, self.marks) if between else self._default_lead()
        self._keep_apart(first, close, open_, behind)
        self.open_ids, self._close_ids = self.literal(open_), self.literal(close)
        self._find_end(behind, first, self._written(turns[:1])[1])
        self.drops_thoughts = self._loses_thoughts()
        closing = self.literal(self.marks.closing)
        every = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special = not every.isdisjoint(self.literal(self.marks.opening))
        self.thinks_in_tokens = special and (self.marks is not thoughts.PLAIN or self.marks.opening in source)
        ends_so = self.end_of_turn in closing and (self.opened or self.marks.opening not in open_)
        if ends_so or (around is not None and self.hides_thoughts and self.end_of_turn in self.literal(around[1])):
            raise ConfigError(
                f"{self._name} ends a thought with the token that ends a turn, so that no "
                "output would get beyond its thought: turn thinking off in data.prompts.template_arguments, or choose another "
                "base"
            )

    # --- text ------------------------------------------------------------------------------------------------------

    def place(self, messages: Turns, tools: Tools = None) -> tuple[list[tuple[str, int]], str]:
        """Return the text that the template writes before each message, with the message's index, and its text at the end.

        The order is the template's: some put the system's text into the last user turn. The last message has to come last.
        Tools are part of the template's text.

        Raises:
            ValueError: a message is left out, or shown twice, or the last one does not come last.
            Exception: anything that the template raises to refuse these roles.
        """
        fault: Exception | None = None
        for in_parts in (False, True):  # some templates accept only lists of parts
            try:
                pieces = self._pieces(messages, in_parts, True, tools)
            except Exception as error:
                fault = fault or error
                continue
            order = [int(index) for index in pieces[1::2]]
            if sorted(order) == list(range(len(messages))) and order[-1] == len(messages) - 1:
                return list(zip(pieces[::2], order, strict=False)), pieces[-1]
        left_out = "the template leaves a message out, shows it twice, or does not show the last one last"
        raise fault or ValueError(left_out)

    def _place_first(self, turns: Turns) -> tuple[list[tuple[str, int]], str]:
        """Return `place` of the first dialogue; a template made only for tools (Hermes') gets an empty list from now on."""
        try:
            return self.place(turns)
        except Exception:
            if not self._shows_tools:
                raise
            self._no_tools = ()
            return self.place(turns)

    def _written(self, turns: Turns) -> list[str]:
        """Return the template's texts before, between and after the turns of a dialogue; empty texts if it cannot show them."""
        for in_parts in (False, True):
            with contextlib.suppress(Exception):
                pieces = self._pieces(turns, in_parts, False)
                if pieces[1::2] == [str(i) for i in range(len(turns))]:
                    return pieces[::2]
        return [""] * (len(turns) + 1)

    def calls(self, turn: Mapping[str, Any], tools: Tools) -> str:
        """Return the template's text after its generation prompt for an assistant's turn that calls tools.

        Args:
            turn: the turn, as in OpenAI's chat API.
            tools: the tools offered.

        Raises:
            Exception: anything that the template raises to refuse it.
        """
        asked = {"role": "user", "content": _MARK.format(0)}
        prompt = _MARKS.split(self._render([asked], True, tools))[-1]
        written = _MARKS.split(self._render([asked, dict(turn)], False, tools))[-1]
        return thoughts.lead(prompt, written, self.marks)

    def _pieces(self, turns: Turns, in_parts: bool, add_generation_prompt: bool, tools: Tools = None) -> list[str]:
        """Return text, index of a turn, text, ..., text of a dialogue in which every turn is a mark."""
        marks = [_MARK.format(i) for i in range(len(turns))]
        marked = [
            {"role": turn["role"], "content": [{"type": "text", "text": mark}] if in_parts else mark}
            for turn, mark in zip(turns, marks, strict=True)
        ]
        return _MARKS.split(self._render(marked, add_generation_prompt, tools))

    def _render(self, messages: list[dict[str, Any]], add_generation_prompt: bool, tools: Tools = None) -> str:
        tools = self._no_tools if tools is None else tools
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **({} if tools is None else {"tools": list(tools)}),
                **self._arguments,
            )
        )

    def _loses_thoughts(self) -> bool:
        thought = f"{thoughts.PLAIN.opening}\n{_MARK.format(3)}\n{thoughts.PLAIN.closing}\n\n{_MARK.format(1)}"
        contents = (_MARK.format(0), thought, _MARK.format(2))
        with contextlib.suppress(Exception):
            roles = ("user", "assistant", "user")
            messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
            return sorted(_MARKS.findall(self._render(messages, add_generation_prompt=True))) == ["0", "1", "2"]
        return False

    def _around_thought(self) -> tuple[str, str] | None:
        """Return its texts before and after the thought of a last turn, up to the answer; None if it shows none."""
        said, answer, thought = (_MARK.format(i) for i in range(3))
        own = {"content": answer, "reasoning_content": thought, "reasoning": thought}
        with contextlib.suppress(Exception):
            messages = [{"role": "user", "content": said}, {"role": "assistant", **own}]
            pieces = _MARKS.split(self._render(messages, add_generation_prompt=False))
            if pieces[1::2] == ["0", "2", "1"]:
                return pieces[2], pieces[4]
        return None

    # --- ids -------------------------------------------------------------------------------------------------------

    def literal(self, text: str, begins: bool = False) -> list[int]:
        """Return ids of the template's own text, control tokens among them.

        Args:
            text: the text, cut at every `GUARD`.
            begins: whether a prompt begins with it. Some tokenizers put a space before a text.
        """
        parts = text.split(GUARD)
        return [i for number, part in enumerate(parts) for i in self._encode(part, begins and number == 0)]

    def data(self, text: str) -> list[int]:
        """Return ids of text that is not the template's own: none of them is a control token of the template."""
        # lone surrogates cannot be encoded: models write them, so they are replaced rather than refused
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = []
        start = 0
        for match in self._parting.finditer(text):  # within a control token that is not special for the tokenizer
            ids += self._encode(text[start : match.start() + 1], split_special_tokens=True)
            start = match.start() + 1
        return ids + self._encode(text[start:], split_special_tokens=True)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, control tokens written out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def begin(self, ids: list[int]) -> list[int]:
        """Return a prompt's ids with the beginning of sequence that the tokenizer requires, if the template writes none."""
        bos = self.tokenizer.bos_token_id
        if bos is None or bos in ids[:1] or next(iter(self.tokenizer("a")["input_ids"])) != bos:
            return ids
        return [int(bos), *ids]

    def close(self, ended: bool, ended_by: int | None = None) -> list[int]:
        """Return the ids between an output and a user's words, without the part that an ended output has.

        Args:
            ended: whether the output ended by itself.
            ended_by: the id that it ended with; None for `end_of_turn`.
        """
        other = ended_by not in (None, self.end_of_turn)
        if not ended or (other and self._ends_by_next):
            return self._close_ids
        # some models end a turn with the token that begins the next one
        return self._rest_of_close[1:] if other and self._rest_of_close[:1] == [ended_by] else self._rest_of_close

    def _encode(self, text: str, begins: bool = False, **options: bool) -> list[int]:
        if not text:
            return []
        if self._sentinel and not begins:
            ids = list(self.tokenizer("\n" + text, add_special_tokens=False, **options)["input_ids"])
            if ids[: len(self._sentinel)] == self._sentinel:
                return ids[len(self._sentinel) :]
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

    def _find_prefix_space(self) -> None:
        """Find out whether the tokenizer puts a space before each text, which is wrong within a prompt."""
        tokens = self.tokenizer.convert_ids_to_tokens(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        if tokens and str(tokens[0]).startswith(("\u2581", "\u0120")):
            self._sentinel = list(self.tokenizer("\n", add_special_tokens=False)["input_ids"])

    def _keep_apart(self, *written: str) -> None:
        """Have data cut within the tokens that separate turns, if they are not special for the tokenizer."""
        every = [*written, *self._written([{"role": role, "content": ""} for role in ("system", "user", "assistant")])]
        parting = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if not token.special
            and not token.content.isspace()
            and token.content not in (*self.marks[:2], *thoughts.PLAIN[:2])
            and (any(token.content in text for text in every) or (self._shows_tools and token.content in self.source))
        ]
        if parting:
            self._parting = re.compile(f"(?={'|'.join(map(re.escape, parting))})")

    def _find_end(self, behind: str, first: str, ends_user: str) -> None:
        """Find the id that ends a turn, the ids before it, and those that an ended output lacks up to the next turn.

        Args:
            behind: the template's text after a last assistant turn.
            first: its text before the first user's words.
            ends_user: its text after a last user turn.
        """
        ids, close = self.literal(behind), self._close_ids
        at, begins_next = self._first_control(ids), False
        if at is None:  # the last turn is left open: the end of an earlier one, or the beginning of the next
            ids, own = close, len(close) - _common_end(close, self.literal(first))
            at = self._first_control(close[:own])
            begins_next = at is None and own == 0 and self._first_control(close) == 0
            at = 0 if begins_next else at
        self.before_end = [] if at is None else ids[:at]
        self.end_of_turn = int(self.tokenizer.eos_token_id) if at is None else ids[at]
        self._ends_by_next = begins_next
        other, user = self._first_control(close), self.literal(ends_user)
        if self.end_of_turn in close:
            rest = close.index(self.end_of_turn) + 1
        elif other is not None and close[other] in user and self._first_control(user) == user.index(close[other]):
            rest = other + 1  # an earlier turn ends like a user's
        else:
            rest = 0
        self._rest_of_close = close[rest:]

    def _first_control(self, ids: Sequence[int]) -> int | None:
        control = set(self.tokenizer.added_tokens_decoder)
        return next((i for i, token in enumerate(ids) if token in control), None)

    def _default_lead(self) -> str:
        return thoughts.end_of_thought("", self.marks) if self.opened else ""

    # --- faults ----------------------------------------------------------------------------------------------------

    def _check_arguments(self, source: str, arguments: Mapping[str, Any]) -> None:
        taken = _OWN_VARIABLES | {*inspect.signature(self.tokenizer.apply_chat_template).parameters}
        for name in arguments:
            if name in taken:
                raise ConfigError(
                    f"data.prompts.template_arguments has {name!r}, which is filled in here: leave it out"
                )
            if not re.search(rf"\b{re.escape(name)}\b", source):
                near = difflib.get_close_matches(name, set(re.findall(r"\b[A-Za-z_]\w+\b", source)), 1)
                meant = f"did you mean {near[0]!r}?" if near else "leave it out, or give the name that it reads"
                raise ConfigError(
                    f"data.prompts.template_arguments has {name!r}, which {self._name} never reads: {meant}"
                )

    def _check_without(self, source: str, arguments: Mapping[str, Any], date: str | None, why: str) -> None:
        """Refuse the arguments of a template that can be used without them."""
        if not arguments:
            return
        try:
            ChatTemplate(self.tokenizer, source, {}, date)
        except ConfigError:
            return
        raise ConfigError(
            f"data.prompts.template_arguments holds a value that {self._name} does "
            f"not take ({why}): {', '.join(f'{name}: {value!r}' for name, value in arguments.items())}; give one that it does"
        )

    def _unusable(self, error: Exception) -> ConfigError:
        line = getattr(error, "lineno", None)  # for Jinja's syntax errors
        if line is not None and self._source.startswith(_STOPPED_CLOCK):
            line -= 1
        where = "" if line is None else f"line {line}: "
        cure = "correct it there" if self._given else "give another one in data.prompts.chat_template"
        return ConfigError(f"{self._name} cannot be used ({where}{reason(error)}): {cure}")


def reason(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _common_end(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of ids that both end with."""
    same = (x == y for x, y in zip(reversed(a), reversed(b), strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))


def _with_date(source: str, date: str | None) -> tuple[str, dict[str, Any]]:
    """Return a template whose clock has stopped at a day, and the variable from which it reads the day."""
    if date is None or "strftime_now" not in source:
        return source, {}
    day = datetime.date.fromisoformat(date)
    forms = {single or double for single, double in _CLOCK.findall(source)}
    return _STOPPED_CLOCK + source, {"cahl_pl_dates": {"": date, **{form: day.strftime(form) for form in forms}}}
