"""Gold calls of rows: reading them, resolving their references, and checking that an output could equal them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cahl_pl.datasets.call_objects import ARGUMENTS, read_function
from cahl_pl.datasets.failed_answers import as_failure
from cahl_pl.datasets.null_arguments import refuse_nulls
from cahl_pl.datasets.reference_shapes import BRACED, WITHIN, meant_reference, named_reference
from cahl_pl.datasets.rows import get_field
from cahl_pl.errors import DataError
from cahl_pl.parsing import MAX_CALLS, format_answer, format_call, parse_action
from cahl_pl.schema import canonical, find_problems
from cahl_pl.schema.blanks import is_blank
from cahl_pl.schema.references import (
    Reference,
    leaves,
    look_up,
    read_reference,
    read_text,
    references_in,
    replace_references,
)
from cahl_pl.types import NO_RESULT, GoldCall, Task, ToolCall, ToolSpec

_IN_WORDS: Final = re.compile(r"\$([1-9][0-9]{0,3})(?![\d,]|\.\d)")
"""A reference within words, but not the amounts $1.50 and $1,000."""

MAX_INSTRUCTION: Final = 2000
"""Maximum number of characters of an instruction: a plan states it in one line."""

_FIELDS: Final = ("name", "arguments", "result", "references", "instruction")


def read_gold(rows: Any, tools: Sequence[ToolSpec], field: str = "gold") -> tuple[GoldCall, ...]:
    """Return the gold calls of a row's field `gold`.

    A call is `{"name", "arguments"}`, or one of OpenAI's `tool_calls`; arguments may be JSON text. An argument that is or
    contains a reference to an earlier call, `"$1"` or `"$1.city"`, is read as one: its value is looked up in the stored
    result. `references` gives the same alongside the value itself; null there means that an argument is text after all.
    `instruction` is what a plan in words says for the call.

    Args:
        rows: the field's value.
        tools: the tools offered, which have to accept the values looked up.
        field: the field's name, for messages.

    Raises:
        DataError: naming the call and the fault.
    """
    gold: list[GoldCall] = []
    listed = get_field({field: rows}, field, list)
    for number, row in enumerate(listed, start=1):
        try:
            call, result, references, instruction = _read(row)
            refuse_nulls(call, tools, references)
            referring = _referring(call, result, references, gold, len(listed), tools)
            _check_instruction(instruction, referring, gold)
            gold.append(replace(referring, instruction=instruction))
        except DataError as error:
            raise DataError(f"the field {field!r}, call {number}: {error}") from None
    return tuple(gold)


def _read(row: Any) -> tuple[ToolCall, Any, Mapping[str, Any], str]:
    if isinstance(row, dict) and isinstance(row.get("function"), dict):  # as in an assistant's tool_calls
        fields = {key: value for key, value in row.items() if key not in ("function", "type", "id", "index")}
        row = row["function"] | fields
    call = read_function(row)
    if isinstance(row.get("id"), str | int) or row.get("type") in ("function", "function_call", "tool_call"):
        row = {key: value for key, value in row.items() if key not in ("type", "id", "call_id", "index", "status")}
    if not any(key in row for key in ARGUMENTS):
        raise DataError("the field 'arguments' is missing; a call without any has {}")
    for key in row:
        if key not in (*_FIELDS, *ARGUMENTS):
            near = difflib.get_close_matches(key, _FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(_FIELDS)}"
            raise DataError(f"there is no field {key!r}; {hint}")
    references = {} if row.get("references") is None else get_field(row, "references", dict)
    instruction = "" if row.get("instruction") is None else get_field(row, "instruction", str)
    return call, as_failure(row.get("result", NO_RESULT)), references, instruction


def _referring(
    call: ToolCall,
    result: Any,
    given: Mapping[str, Any],
    earlier: Sequence[GoldCall],
    total: int,
    tools: Sequence[ToolSpec],
) -> GoldCall:
    """Return the gold call with its references, each checked against the results before it."""
    arguments, references = dict(call.arguments), {}
    for parameter in given:
        if parameter not in arguments:
            near = difflib.get_close_matches(parameter, arguments, 1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "it has to be among the arguments, with the value that it had"
            )
            raise DataError(f"the field 'references' names {parameter!r}, which the call does not have; {hint}")
    for parameter, value in arguments.items():
        if parameter in given and given[parameter] is None:
            continue
        written = given.get(parameter, value)
        found = _references(parameter, written, earlier, total, parameter in given)
        if not found:
            continue
        references[parameter] = written
        for reference in found:
            if earlier[reference.call - 1].result is NO_RESULT:
                raise DataError(
                    f"{parameter!r} refers to the result of call {reference.call}, but none is stored: give that call the "
                    "field 'result', what the tool answered"
                )
        if parameter in given and not _holds_reference(value, len(earlier)):
            check_value(parameter, value, written, earlier)
        else:
            arguments[parameter] = _looked_up(parameter, written, earlier)
        _check_type(call.name, parameter, arguments[parameter], written, tools)
    return GoldCall(call.name, arguments, result, references)


def _check_instruction(instruction: str, call: GoldCall, earlier: Sequence[GoldCall]) -> None:
    """Check that an instruction refers to each result that the call needs and, if it needs any, to no others."""
    if not instruction:
        return
    if not instruction.strip():
        raise DataError("the field 'instruction' is blank; leave it out, or write what a plan is to say")
    if len(instruction) > MAX_INSTRUCTION:
        raise DataError(
            f"the field 'instruction' has {len(instruction):,} characters, and {MAX_INSTRUCTION:,} are the most"
        )
    wanted = {one.call for one in references_in(call.references)}
    said = {int(number) for number in _IN_WORDS.findall(instruction)}
    # "$3" is an amount of money in an instruction without references, and a reference if the call has some
    if wanted - said:
        missing = ", ".join(f"${number}" for number in sorted(wanted - said))
        raise DataError(f"the field 'instruction' does not say {missing}, which the call's references need")
    if wanted and said - wanted:
        other = ", ".join(f"${number}" for number in sorted(said - wanted))
        raise DataError(f"the field 'instruction' says {other}, to which the call's references do not refer")


def _references(
    parameter: str, written: Any, earlier: Sequence[GoldCall], total: int, given: bool
) -> list[Reference]:
    """Return the references in a parameter's value, for the call after `earlier`; empty if it is text."""
    number = len(earlier) + 1
    found = list(references_in(written))
    if given and (not found or any(one.call >= number for one in found)):
        raise DataError(
            f'the reference of {parameter!r} must be the number of an earlier call, such as "$1" or "$1.city", or a list or '
            f"an object of such, but is {json.dumps(written)[:60]}"
        )
    later = [one for one in found if number <= one.call <= total]
    if later:
        raise DataError(
            f"the argument {parameter!r} refers to call {later[0].call}, which does not come before it; calls are counted from "
            f'1 (if it is text, say so: "references": {{"{parameter}": null}})'
        )
    if not given:
        _refuse_unknown(parameter, written, earlier)
    return found if all(one.call < number for one in found) else []


def looks_like_reference(value: Any) -> bool:
    """Return whether a value contains text that `read_gold` reads as a reference, or refuses as an impossible one."""
    texts = [text for text in leaves(value) if isinstance(text, str)]
    return any(
        read_reference(text) is not None or meant_reference(text) is not None or WITHIN.search(text) or BRACED.search(text)
        for text in texts
    )


def _refuse_unknown(parameter: str, written: Any, earlier: Sequence[GoldCall]) -> None:
    """Refuse text that is meant as a reference but cannot be one: a path of a missing call, or another notation."""
    before = len(earlier)
    for text in (text for text in leaves(written) if isinstance(text, str)):
        read, meant = read_reference(text), meant_reference(text)
        unknown = read is not None and read.call > before and bool(read.path)
        misspelt = meant is not None and (meant.surely or (before > 0 and (meant.call or 1) <= before))
        if unknown or misspelt:
            known = f"the calls before it are 1 to {before}" if before else "no call comes before it"
            right = meant is not None and meant.written is not None and (meant.call or 0) <= before
            hint = f"; did you mean {_short(meant.written)}?" if meant is not None and right else ""
            raise DataError(
                f"the argument {parameter!r} is {_short(text)}, which looks like a reference, but can be none: {known}, and a "
                f'reference is written "$1" or "$1.city"{hint} (if it is text, say so: "references": {{"{parameter}": null}})'
            )
        named = named_reference(text, [(one.name, one.result) for one in earlier])
        if named is not None:
            raise DataError(
                f"the argument {parameter!r} is {_short(text)}, which looks like a reference to an earlier call, but is none: "
                f'did you mean {_short(named)}? (if it is text, say so: "references": {{"{parameter}": null}})'
            )
        within = None if read is not None else _within_text(text, earlier)
        if within is not None:
            raise DataError(
                f"the argument {parameter!r} is {_short(text)}, in which {within} looks like a reference, but none is looked "
                "up within other text: write the text that is meant, and in the field 'references' "
                f'{{"{parameter}": "$1"}} where it comes from, or null if it is text'
            )


def _within_text(text: str, earlier: Sequence[GoldCall]) -> str | None:
    """Return the reference to an earlier result within other text; a sum of money is not one."""
    for braced in BRACED.finditer(text):
        if int(braced["call"] or braced["call2"]) <= len(earlier):
            return braced[0]
    for found in WITHIN.finditer(text):
        read = read_reference(found[0].replace("'", '"'))
        if read is not None and read.call <= len(earlier) and _is_there(earlier[read.call - 1].result, read.path[:1]):
            return found[0]
    return None


def _is_there(result: Any, path: tuple[str | int, ...]) -> bool:
    try:
        look_up(result, path)
    except LookupError:
        return False
    return True


def _holds_reference(value: Any, earlier: int) -> bool:
    return any(one.call <= earlier for one in references_in(value))


def _looked_up(parameter: str, written: Any, earlier: Sequence[GoldCall]) -> Any:
    def put(reference: Reference, text: str) -> Any:
        result = earlier[reference.call - 1].result
        try:
            return look_up(result, reference.path)
        except LookupError as error:
            raise DataError(
                f"{parameter!r} refers to {text}, which is not in the result of call {reference.call}: {error}"
            ) from None

    return replace_references(written, put)


def _check_type(name: str, parameter: str, value: Any, written: Any, tools: Sequence[ToolSpec]) -> None:
    """Refuse a result that the parameter does not accept: it is unknown which part of it is meant."""
    problems = find_problems(ToolCall(name, {parameter: value}), tools)
    fault = next((p.message for p in problems if p.parameter == parameter and p.cause == "type"), None)
    if fault is not None:
        raise DataError(
            f"{parameter!r} refers to {json.dumps(written)}, and the tool does not take that ({fault}): name the part of the "
            'result that is meant, such as "$1.city" (if it is text, say so: '
            f'"references": {{"{parameter}": null}})'
        )


def check_value(parameter: str, value: Any, written: Any, earlier: Sequence[GoldCall]) -> None:
    """Refuse a value that is not in the result that it is said to come from.

    Args:
        parameter: its name.
        value: the value.
        written: its reference, or a list or an object of references.
        earlier: the calls before, with the results referred to.

    Raises:
        DataError: in one sentence, naming the parameter and the reference.
    """
    whole = read_reference(written)
    if whole is not None and not whole.path:
        result = earlier[whole.call - 1].result
        known = list(leaves(read_text(result) if isinstance(result, str) else result))
        texts = [text for text in known if isinstance(text, str)]
        for leaf in leaves(value):
            if not any(same_value(leaf, one) for one in known) and not any(_within(leaf, text) for text in texts):
                raise DataError(
                    f"{parameter!r} is {_short(leaf)}, which is not in the result of call {whole.call} that it refers to; "
                    "correct the value, the result or the reference"
                )
        return
    expected = _looked_up(parameter, written, earlier)
    if not same_value(value, expected):
        raise DataError(
            f"{parameter!r} is {_short(value)}, but {json.dumps(written)} that it refers to is {_short(expected)}; correct the "
            "value, the result or the reference"
        )


def same_value(value: Any, other: Any) -> bool:
    """Return whether two values are the same; numbers equal their texts."""
    if canonical(value, strip=True) == canonical(other, strip=True):
        return True
    scalars = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in (value, other))
    if scalars and isinstance(value, str) != isinstance(other, str):
        text, number = (value, other) if isinstance(value, str) else (other, value)
        try:
            return float(text) == float(number)
        except (ValueError, OverflowError):
            return False
    return False


def _within(value: Any, text: str) -> bool:
    shown = value.strip() if isinstance(value, str) else json.dumps(value)
    return bool(shown) and shown.casefold() in text.casefold()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_writable(task: Task) -> None:
    """Check that an output can equal a task's gold: gold that no model can write would never be rewarded.

    Raises:
        DataError: a call or the answer cannot be read back from the text that it would be written as.
    """
    if task.answer is not None and (is_blank(task.answer) or parse_action(format_answer(task.answer)).answer is None):
        raise DataError("the field 'answer' is blank; leave it out, or write what is to be answered")
    if len(task.gold) > MAX_CALLS and not task.ordered and not _any_references(task.gold):
        raise DataError(
            f'there are {len(task.gold)} parallel gold calls, and an output holds {MAX_CALLS} at most; with "ordered": true '
            "they come one after the other"
        )
    for number, gold in ((n, gold) for way in task.ways for n, gold in enumerate(way, start=1)):
        try:
            json.dumps(dict(gold.arguments), allow_nan=False)
            read = parse_action(format_call(gold.call))
        except (TypeError, ValueError, RecursionError):  # parquet and the hub have values that JSON lacks
            raise DataError(
                f"gold call {number} holds a value that JSON does not have, such as an infinity or a date"
            ) from None
        if (
            read.call is None
            or read.call.name != gold.name
            or canonical(read.call.arguments) != canonical(gold.arguments)
        ):
            why = read.error or "it is read as something else"
            raise DataError(f"gold call {number} is none that an output can make: {why}")


def _any_references(gold: Iterable[GoldCall]) -> bool:
    return any(one.references for one in gold)
