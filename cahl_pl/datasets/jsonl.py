"""The task format of this project: JSON lines, one task a line, messages and tools as in OpenAI's chat API.

    {"id": "...", "messages": [{"role", "content"}, ...], "tools": [{"type": "function", "function": {"name",
     "description", "parameters": JSON Schema}}], "gold": [{"name", "arguments", "result", "references"}],
     "alternatives": [[...], ...], "foreseen": 1, "ordered": false, "answer": "...", "state": {},
     "outcome": {"results": [...], "state": {}}, "tags": {}}

Every converter writes it, and `JsonlDataset` reads it back without keeping the tasks in memory.
"""

from __future__ import annotations

import difflib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from cahl_pl.datasets.base import TaskSource
from cahl_pl.datasets.call_marks import refuse_call
from cahl_pl.datasets.fingerprint import Fingerprint
from cahl_pl.datasets.formats.table import FORMATS, OWN_FIELDS, form_of, is_own, nearest, read_one
from cahl_pl.datasets.gold_calls import looks_like_reference, read_gold
from cahl_pl.datasets.loading import OnContradiction, judge
from cahl_pl.datasets.messages import fold, read_dialogue, refuse_lost_calls
from cahl_pl.datasets.missing_tools import missing_tools
from cahl_pl.datasets.report import LoadReport, Verdict, require_tasks
from cahl_pl.datasets.row_kinds import other_kind
from cahl_pl.datasets.rows import get_field, parse_json, read_rows
from cahl_pl.datasets.task_parts import fit_tools, kind_of_gold
from cahl_pl.datasets.tool_forms import read_tools
from cahl_pl.environments.base import is_failure
from cahl_pl.environments.tool_sources import tools_of
from cahl_pl.errors import DataError
from cahl_pl.plurals import counted
from cahl_pl.types import NO_RESULT, GoldCall, Message, Outcome, Task, ToolSpec

NAMED_ROWS = 100
"""Number of rows of each kind that the report of a JsonlDataset names; the others are only counted."""


class JsonlDataset(TaskSource):
    """Tasks from a file of JSON lines that may be larger than memory.

    The file is read once when it is opened: every row is checked, and 8 bytes per row are kept, its offset. A task is
    read again when it is requested. `cahl_pl.datasets.loading.judge` says which rows are taken.

    Args:
        path: the file. Its rows are described in docs/your-data.md.
        on_contradiction: what to do with rows whose gold breaks their own schema: `relax` the schema there, or `drop`
            the row.
        strict: raise on the first row that cannot be read, instead of dropping it.
        tools: a Python file or module whose functions are the tools of rows that do not bring their own, see
            `PythonTools`, or a `.json` file that names MCP servers, see `McpEnvironment`. Such a row leaves `tools` out, or
            lists names of them in it.

    Raises:
        DataError: the file cannot be read, is not JSON lines, or no row of it can be used; with `strict`, also a row
            that cannot be read.
        ConfigError: `tools` cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        on_contradiction: OnContradiction = "relax",
        strict: bool = False,
        tools: str | None = None,
    ) -> None:
        self.report: LoadReport = LoadReport(str(path), limit=NAMED_ROWS)
        self.path = Path(path).expanduser()
        self._tools = None if tools is None else tools_of(tools)
        self._offsets = array("Q")
        self.fingerprint: Fingerprint = Fingerprint()
        self._changed: tuple[int, int] | None = None
        for verdict in judge(read_rows(path), self._read, on_contradiction, strict):
            row = verdict.row
            if row.offset is None:
                raise DataError(
                    f"{path}: one JSON object a line is needed, not a list or parquet; "
                    f"python -m cahl_pl convert-data {form_of(row.value) or 'jsonl'} INPUT OUTPUT writes lines"
                )
            self.report.add(verdict)
            if (form := _shortened(verdict)) is not None:
                self.report.shortened[form] += 1
            if verdict.task is not None:
                self._offsets.append(row.offset)
                self.fingerprint.add(row.value)
        require_tasks(self.report)
        self._changed = _stamp(os.stat(self.path))

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Task:
        offset = self._offsets[index]
        try:
            with self.path.open("rb") as file:
                if _stamp(os.fstat(file.fileno())) != self._changed:
                    raise DataError(f"{self.path}: the file has changed since it was opened; start again")
                file.seek(offset)
                line = file.readline()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror}); put the file back") from None
        try:
            (task,) = self._read(parse_json(line.removesuffix(b"\n").decode()), index)
        except (DataError, UnicodeDecodeError) as error:
            with self.path.open("rb") as file:
                number = 1 + sum(chunk.count(b"\n") for chunk in _chunks(file, offset))
            raise DataError(
                f"{self.path}, line {number}: cannot be read any more ({error}), but could be when the file was opened; put "
                "it right and start again"
            ) from None
        return fit_tools(task)[0]

    def _read(self, value: Any, index: int) -> Iterable[Task]:
        return (read_any(value, f"{self.path.stem}-{index}", self._tools),)


def _shortened(verdict: Verdict) -> str | None:
    """Return the format of a dialogue row whose earlier assistant turns could be separate tasks."""
    if verdict.task is None or all(message.role != "assistant" for message in verdict.task.messages):
        return None
    form = form_of(verdict.row.value)
    return form if form is not None and FORMATS[form].dialogues else None


MAX_ROW_DEPTH: Final = 100
"""Maximum nesting depth of a row; that of values of calls, which models write, is `cahl_pl.parsing.MAX_DEPTH`."""


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested; iterative, since a deep value would exhaust recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the first `length` bytes of a file, piece by piece."""
    while length > 0 and (chunk := file.read(min(length, 1 << 20))):
        length -= len(chunk)
        yield chunk


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def task_to_row(task: Task) -> dict[str, Any]:
    """Return a task as a row of JSON lines; `row_to_task` restores the same task."""
    row: dict[str, Any] = {
        "id": task.id,
        "messages": [{"role": message.role, "content": message.content} for message in task.messages],
        "tools": [_tool_to_row(tool) for tool in task.tools],
        "gold": [_gold_to_row(call) for call in task.gold],
    }
    optional = {
        "alternatives": [[_gold_to_row(call) for call in way] for way in task.alternatives],
        "foreseen": task.foreseen,
        "ordered": task.ordered,
        "answer": task.answer,
        "state": task.state,
        "outcome": None if task.outcome is None else _outcome_to_row(task.outcome),
        "tags": dict(task.tags),
    }
    return row | {name: value for name, value in optional.items() if value not in (False, None, {}, [])}


def _tool_to_row(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def _gold_to_row(call: GoldCall) -> dict[str, Any]:
    row: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments)}
    if call.result is not NO_RESULT:
        row["result"] = call.result
    # null: text that looks like a reference is not one
    text = {
        name: None
        for name, value in call.arguments.items()
        if name not in call.references and looks_like_reference(value)
    }
    references = {**text, **call.references}
    row |= {"instruction": call.instruction} if call.instruction else {}
    return row | ({"references": references} if references else {})


def _outcome_to_row(outcome: Outcome) -> dict[str, Any]:
    return {"results": list(outcome.results)} | ({} if outcome.state is None else {"state": outcome.state})


def read_any(row: Any, name: str, tools: tuple[ToolSpec, ...] | None = None) -> Task:
    """Return the task of a row in this project's format, or in one recognized by its form.

    Args:
        row: the row's JSON value.
        name: the task's id if the row has none.
        tools: the tools of rows that have none of their own.

    Raises:
        DataError: naming the field at fault, or the converter for a row that is not read as it is.
    """
    other = other_kind(row)
    if other is not None:
        raise DataError(other)
    form = form_of(row)
    if form is None:
        _refuse_unanswered(row)
        try:
            return row_to_task(row, tools)
        except DataError as error:
            if not isinstance(row, dict) or is_own(row):
                raise
            near = nearest(row)
            if near == "jsonl" or row.keys() <= set(OWN_FIELDS):
                raise
            if near is None:
                raise DataError(
                    f"{error}; the row has no form that is known: cahl-pl convert-data --help lists them"
                ) from None
            raise DataError(
                f"{error}; its fields are most like those of {near}: convert-data {near} INPUT OUTPUT"
            ) from None
    given = row.get("id")
    if tools is not None and row.get("tools") is None and "messages" in row:
        row = row | {"tools": [_tool_to_row(tool) for tool in tools]}
    task = read_one(row, form, given if isinstance(given, str) and given.strip() else name)
    if task is None:
        raise DataError(f"the row is one of {form}, of which each is several tasks: convert-data {form} INPUT OUTPUT")
    return task


def _refuse_unanswered(row: Any) -> None:
    """Refuse a row of messages with neither this project's fields nor an assistant turn: it does not say what is right.

    Raises:
        DataError: the row is one, or a message cannot be read, such as one with an unknown role.
    """
    messages = row.get("messages") if isinstance(row, dict) and not is_own(row) and "id" not in row else None
    if not isinstance(messages, list) or not all(isinstance(one, dict) and "role" in one for one in messages):
        return
    if not any(one.role == "assistant" for one in read_dialogue(messages)):
        raise DataError(
            "the right calls are missing: the field 'messages' holds no turn of the assistant, and there is no field 'gold'; "
            "write them in 'gold', [] where no tool is needed, and give the row an 'id'"
        )


def row_to_task(row: Any, tools: tuple[ToolSpec, ...] | None = None) -> Task:
    """Return the task of a row.

    Args:
        row: the row's JSON value.
        tools: the tools of rows that have none of their own.

    Raises:
        DataError: naming the field at fault.
    """
    name = get_field(row, "id", str)
    if not name.strip():
        raise DataError("the field 'id' is blank: give each row an id that no other has")
    _refuse_unknown(row, OWN_FIELDS)
    if _depth(row) > MAX_ROW_DEPTH:
        raise DataError(
            f"its values are nested more than {MAX_ROW_DEPTH} deep, which what copies and writes them cannot take"
        )
    outcome = None if row.get("outcome") is None else _outcome(get_field(row, "outcome", dict))
    offered = _tools(row, tools)
    # data with outcomes may have no traces
    untraced = outcome is not None and row.get("gold") is None
    gold = () if untraced else read_gold(get_field(row, "gold", list), offered)
    answer = _optional(row, "answer", str, None)
    refuse_call(answer, offered, "the field 'answer'")
    tags = _optional(row, "tags", dict, {})
    if not all(isinstance(value, str) for value in tags.values()):
        raise DataError("the field 'tags' must hold text only")
    return Task(
        name,
        _messages(row, offered),
        offered,
        gold,
        ordered=_optional(row, "ordered", bool, False),
        answer=answer,
        state=_optional(row, "state", dict, None),
        outcome=outcome,
        alternatives=_alternatives(row, gold, offered),
        foreseen=_foreseen(row, gold),
        tags={"kind": "outcome" if untraced else kind_of_gold(gold)} | tags,
    )


def _alternatives(
    row: Mapping[str, Any], gold: tuple[GoldCall, ...], tools: tuple[ToolSpec, ...]
) -> tuple[tuple[GoldCall, ...], ...]:
    ways = _optional(row, "alternatives", list, [])
    read = tuple(read_gold(way, tools, f"alternatives, {number}") for number, way in enumerate(ways, start=1))
    if ways and not (gold and all(read)):
        raise DataError(
            "the field 'alternatives' holds other ways to what 'gold' does; each of them, and 'gold', needs a call"
        )
    return read


def _foreseen(row: Mapping[str, Any], gold: tuple[GoldCall, ...]) -> int | None:
    foreseen: int | None = _optional(row, "foreseen", int, None)
    if foreseen is None:
        return None
    if isinstance(foreseen, bool) or not 1 <= foreseen <= len(gold):
        raise DataError(
            f"the field 'foreseen' is {json.dumps(foreseen)}, and there {'is' if len(gold) == 1 else 'are'} "
            f"{counted(len(gold), 'gold call')}: it says how many of them, at least 1, can be planned before anything has been "
            "seen; leave it out where all can"
        )
    if row.get("alternatives"):
        raise DataError(
            "the fields 'foreseen' and 'alternatives' are both given: of another way nobody says what can be foreseen"
        )
    first = [one.result for one in gold[:foreseen]]
    if foreseen < len(gold) and NO_RESULT not in first and not any(map(is_failure, first)):
        raise DataError(
            f"the field 'foreseen' is {foreseen}, but none of these calls fails, after which alone there is a further plan: a "
            'result that is a failure is written {"error": "why"}'
        )
    return foreseen


def _outcome(row: Mapping[str, Any]) -> Outcome:
    if unknown := set(row) - {"results", "state"}:
        raise DataError(f"the field 'outcome' has no part {sorted(unknown)[0]!r}; its parts are results and state")
    return Outcome(tuple(_optional(row, "results", list, [])), _optional(row, "state", dict, None))


def _optional(row: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    return default if row.get(name) is None else get_field(row, name, kind)


def _refuse_unknown(row: Mapping[str, Any], known: tuple[str, ...]) -> None:
    # A misspelt field would otherwise count as left out.
    unknown = next((name for name in row if name not in known), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, known, 1)
        hint = f"did you mean {near[0]!r}? The fields are" if near else "the fields are"
        raise DataError(f"there is no field {unknown!r}; {hint} {', '.join(known)}")


def _messages(row: Any, tools: tuple[ToolSpec, ...]) -> tuple[Message, ...]:
    said = read_dialogue(get_field(row, "messages", list))
    refuse_lost_calls(said, row["messages"], tools)
    messages = fold(said)
    if not messages or messages[-1].role not in ("user", "tool"):
        raise DataError("the field 'messages' must end with a user's message or a tool's answer")
    return messages


def _is_name(tool: Any) -> bool:
    """Return whether a tool is given by name, and neither declared nor the JSON text of a declaration."""
    return isinstance(tool, str) and not tool.lstrip().startswith("{")


def _tools(row: Mapping[str, Any], default: tuple[ToolSpec, ...] | None) -> tuple[ToolSpec, ...]:
    if row.get("tools") is None:
        if default is None:
            raise DataError(missing_tools(row, "; a module of Python functions can stand in for it"))
        return default
    by_name = {tool.name: tool for tool in default or ()}
    listed = row["tools"]
    if isinstance(listed, list) and any(map(_is_name, listed)):
        found: list[ToolSpec] = []
        for number, item in enumerate(listed, start=1):
            if not _is_name(item):
                found += read_tools([item])
            elif item in by_name:
                found.append(by_name[item])
            else:
                near = difflib.get_close_matches(item, by_name, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(by_name) or 'none'}"
                raise DataError(f"the field 'tools', tool {number}: no function is named {item!r}; {hint}")
        return tuple(found)
    return read_tools(listed)
