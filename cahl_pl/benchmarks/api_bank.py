"""API-Bank (arXiv 2304.08244), levels 1 to 3, in the form in which ToolRL evaluates it: one call per row.

A level's file is `level-N-api_processed.json`: a list of rows `{"system", "user", "answer", "other"}`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from cahl_pl.benchmarks.base import (
    Benchmark,
    Evaluate,
    Record,
    by_group,
    make_record,
    share,
    spread,
)
from cahl_pl.datasets.rows import get_field, read_rows
from cahl_pl.datasets.task_parts import object_schema
from cahl_pl.datasets.type_names import type_schema
from cahl_pl.environments.acknowledging import AcknowledgingEnvironment
from cahl_pl.environments.recorded import RecordedEnvironment
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.schema import canonical
from cahl_pl.types import NO_RESULT, GoldCall, Message, Task, ToolCall, ToolSpec, Trajectory

Match: TypeAlias = Literal["strict", "toolrl"]

SEQUENCES: Final = "level-3-sequences"
_SCHEMES: Final[Mapping[Match, str]] = {
    "strict": "exactly one call, equal to the gold one",
    "toolrl": "ToolRL's lenient matching: some call equal to the gold one",
}


class APIBank(Benchmark):
    """API-Bank's levels: a row is right if its one call is the gold call. The overall score pools the rows of all levels.

    Calls are compared as they were written, without coercion. `strict`: there is exactly one call, and it has the gold's name
    and arguments (1 and 1.0 are the same, 1 and "1" are not; outer white space of texts does not matter). `toolrl`: some
    call has them, by Python's `==`; a payload that lacks "name" and "parameters" counts as the arguments of a call of
    the gold's name, as in ToolRL's script.

    A row's calls are answered `{"status": "ok"}`. With `sequences`, the level-3 rows of one sample are also run as one task:
    the request once, all its tools, and the recorded answers as feedback. Their scores are separate and not part of the
    overall score.

    Args:
        folder: folder of the levels' files.
        levels: some of 1, 2 and 3.
        match: `strict` or `toolrl`.
        sequences: run level 3 as sequences too.
        max_tasks: maximum number of tasks to run, taken in turn from each level.

    Raises:
        ConfigError: there is no such level or matching.
        DataError: a file is missing or a row cannot be read.
    """

    name = "API-Bank"
    environment = AcknowledgingEnvironment()

    def __init__(
        self,
        folder: str | Path,
        levels: Sequence[int] = (1, 2, 3),
        match: Match = "strict",
        sequences: bool = False,
        max_tasks: int | None = None,
    ) -> None:
        if not levels or not set(levels) <= {1, 2, 3} or match not in _SCHEMES or (sequences and 3 not in levels):
            raise ConfigError(
                f"API-Bank has levels 1, 2 and 3, matching strict or toolrl, and sequences in level 3 only: not levels "
                f"{list(levels)}, match {match!r}, sequences {sequences}"
            )
        items: list[tuple[str, Task]] = []
        for level in sorted(set(levels)):
            rows = load_level(Path(folder) / f"level-{level}-api_processed.json", level)
            items += [(f"level-{level}", row.task) for row in rows]
            if level == 3 and sequences:
                items += [(SEQUENCES, task) for task in load_sequences(rows)]
        kept = spread([group for group, _ in items], max_tasks)
        self._groups = [items[i][0] for i in kept]
        self._tasks = [items[i][1] for i in kept]
        self.ids = [task.id for task in self._tasks]
        self.scheme = _SCHEMES[match]
        self.match = match
        self._options = {
            "folder": str(folder),
            "levels": sorted(set(levels)),
            "match": match,
            "sequences": sequences,
            "max_tasks": max_tasks,
        }

    def group(self, index: int) -> str:
        """Return `level-1`, `level-2`, `level-3` or `level-3-sequences`."""
        return self._groups[index]

    def task(self, index: int) -> Task:
        """Return the row, or the sample."""
        return self._tasks[index]

    def run(self, indices: Sequence[int], evaluate: Evaluate) -> list[Record]:
        """Run rows first, then sequences, whose calls get the recorded answers; return records in the given order."""
        rows = [i for i in indices if self._groups[i] != SEQUENCES]
        samples = [i for i in indices if self._groups[i] == SEQUENCES]
        records = super().run(rows, evaluate) if rows else []
        if samples:
            for i, episode in zip(
                samples, evaluate([self._tasks[i] for i in samples], RecordedEnvironment()), strict=True
            ):
                records.append(make_record(self.ids[i], SEQUENCES, [episode], **self.check(i, episode)))
        found = {one["id"]: one for one in records}
        return [found[self.ids[i]] for i in indices]

    def check(self, index: int, trajectory: Trajectory) -> Record:
        """Return whether the calls are the gold calls; `matched` counts those that are."""
        gold = [call.call for call in self._tasks[index].gold]
        if self._groups[index] == SEQUENCES or self.match == "strict":
            written = Counter(map(_key, trajectory.calls))
            matched = (written & Counter(map(_key, gold))).total()
            success = matched == len(gold) == len(trajectory.calls)
        else:
            matched = int(any(_same(call, gold[0]) for call in _calls_of_toolrl(trajectory, gold[0].name)))
            success = bool(matched)
        return {"success": success, "matched": matched, "gold_calls": len(gold), "needed": len(gold)}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Return `overall` over the rows of all levels that were run, each level, and sequences as a whole and by calls."""
        scores = by_group(records)
        rows = [r for r in records if r["group"] != SEQUENCES]
        samples = [r for r in records if r["group"] == SEQUENCES]
        if samples:
            scores[f"{SEQUENCES}/calls"] = sum(r["matched"] for r in samples) / sum(r["needed"] for r in samples)
        return {"overall": share(r["success"] for r in rows), **scores} if rows else scores

    def denominators(self, records: Sequence[Record]) -> dict[str, int]:
        """Return the numbers of rows of each level and of all, of sequences, and of their gold calls."""
        counts = super().denominators(records)
        del counts["all"]
        samples = [r for r in records if r["group"] == SEQUENCES]
        if samples:
            counts[f"{SEQUENCES}/calls"] = sum(r["needed"] for r in samples)
        return {"overall": len(records) - len(samples), **counts}

    def remarks(self, records: Sequence[Record]) -> list[str]:
        """Return the levels that were not run."""
        missing = [f"level {n}" for n in (1, 2, 3) if not any(r["group"] == f"level-{n}" for r in records)]
        return [f"not run, and no part of the overall score: {', '.join(missing)}"] if missing else []

    def options(self) -> dict[str, Any]:
        """Return all arguments."""
        return self._options


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """Row as a task, with its sample.

    Attributes:
        task: the row.
        sample: number of its sample (level 3), else None.
    """

    task: Task
    sample: int | None


def load_level(path: Path, level: int) -> list[BenchmarkRow]:
    """Return the rows of a level's file.

    Raises:
        DataError: the file is missing or a row cannot be read.
    """
    rows = []
    for row in read_rows(path):
        try:
            if row.fault is not None:
                raise DataError(row.fault)
            rows.append(_row(row.value, f"level-{level}-{row.index}", level))
        except DataError as error:
            raise DataError(f"{row.where}: {error}; download the file again") from None
    if not rows:
        raise DataError(f"{path}: there are no rows; download the file again")
    return rows


def load_sequences(rows: Sequence[BenchmarkRow]) -> list[Task]:
    """Return the rows of each sample as one task: the first row's request, the last one's tools, the calls of all.

    A call's recorded answer is in the dialogue of the row after it; the last call has none.
    """
    samples: dict[int, list[Task]] = {}
    for row in rows:
        if row.sample is not None:
            samples.setdefault(row.sample, []).append(row.task)
    tasks = []
    for number, steps in samples.items():
        answers = [[m.content for m in step.messages if m.role == "tool"] for step in steps]
        gold = [
            GoldCall(step.gold[0].name, step.gold[0].arguments, after[k] if len(after) > k else NO_RESULT)
            for k, (step, after) in enumerate(zip(steps, [*answers[1:], []], strict=True))
        ]
        tasks.append(
            Task(f"level-3-sample-{number}", steps[0].messages[:1], steps[-1].tools, tuple(gold), ordered=True)
        )
    return tasks


def _row(value: Any, name: str, level: int) -> BenchmarkRow:
    system, user = get_field(value, "system", str), get_field(value, "user", str)
    answer = value.get("answer")
    call = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    gold = GoldCall(get_field(call, "name", str), get_field(call, "parameters", dict))
    sample = get_field(get_field(value, "other", dict), "sample_id", int) if level == 3 else None
    return BenchmarkRow(Task(name, _messages(user), _tools(system), (gold,)), sample)


_TOOLS: Final = re.compile(
    r"you can use the following tools:\n(.*?)\n*^\*\*Steps for Each Turn\*\*", re.MULTILINE | re.DOTALL
)
_TOOL_START: Final = re.compile(r"^\d+\. ", re.MULTILINE)
# levels 1 and 2 name the parts, level 3 does not
_TOOL: Final = re.compile(
    r"(?:Name: (?P<named>.*?)\nDescription: |(?P<bare>\w+): )(?P<description>.*)\nParameters: (?P<parameters>.*)",
    re.DOTALL,
)


def _tools(system: str) -> tuple[ToolSpec, ...]:
    section = _TOOLS.search(system)
    if section is None:
        raise DataError("the field 'system' lists no tools")
    return tuple(_tool(text.strip()) for text in _TOOL_START.split(section[1])[1:])


def _tool(text: str) -> ToolSpec:
    match = _TOOL.fullmatch(text)
    if match is None:
        raise DataError(f"the tool {text[:60]!r} must have a name, a description and parameters")
    try:
        declared = ast.literal_eval(match["parameters"])  # the files write Python's literals
        properties = {
            name: {**type_schema(one.get("type")), "description": str(one.get("description", ""))}
            for name, one in declared.items()
        }
    except (ValueError, SyntaxError, AttributeError):
        raise DataError(f"the parameters of the tool {text[:60]!r} cannot be read") from None
    return ToolSpec(match["named"] or match["bare"], match["description"].strip(), object_schema(properties))


_TURN: Final = re.compile(r"\s*<(user|response|tool_call|obs)>(.*?)</\1>", re.DOTALL)


def _messages(user: str) -> tuple[Message, ...]:
    roles: dict[str, Literal["user", "assistant", "tool"]] = {"user": "user", "response": "assistant", "obs": "tool"}
    messages = []
    for tag, content in _TURN.findall(user):
        text = content.strip()
        if tag == "tool_call":
            messages.append(Message("assistant", f"<tool_call>{text}</tool_call>"))
        else:
            messages.append(Message(roles[tag], text))
    if not messages or messages[-1].role != "user":
        raise DataError("the field 'user' must hold a dialogue that ends with the user")
    return tuple(messages)


def _key(call: ToolCall) -> tuple[str, str]:
    return call.name, canonical(call.arguments, strip=True)


def _same(call: ToolCall, gold: ToolCall) -> bool:
    return call.name == gold.name and dict(call.arguments) == dict(gold.arguments)


def _calls_of_toolrl(trajectory: Trajectory, name: str) -> list[ToolCall]:
    """Return the calls, and payloads without "name" and "parameters" as arguments of a call of that name."""
    calls = list(trajectory.calls)
    for step in trajectory.steps:
        body = re.search(r"<tool_call>([^<]{0,20000})</tool_call>", step.text)
        if step.action.call is None and body is not None:
            try:
                payload = json.loads(body[1])
            except (ValueError, RecursionError):
                continue
            if isinstance(payload, dict) and not {"name", "parameters"} & payload.keys():
                calls.append(ToolCall(name, payload))
    return calls
