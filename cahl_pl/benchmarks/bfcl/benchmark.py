"""BFCL with a planner and an executor: one plan per turn, each step of it a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

from cahl_pl.benchmarks.base import (
    Benchmark,
    Evaluate,
    Record,
    by_group,
    make_record,
    spread,
)
from cahl_pl.benchmarks.bfcl.checker import Backends, BackendSession, Checker
from cahl_pl.benchmarks.bfcl.data import (
    AST,
    CATEGORIES,
    IRRELEVANCE,
    MULTI_TURN,
    RELEVANCE,
    Entry,
    load_entries,
    package_folder,
)
from cahl_pl.benchmarks.bfcl.scores import SCHEMES, Scheme, missing, summarize
from cahl_pl.environments import AcknowledgingEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.plurals import counted
from cahl_pl.prompts import dialogue
from cahl_pl.types import Message, Task, Trajectory

NEW_FUNCTIONS = "I have updated some more functions you can choose from. What about now?"
"""User's text when functions that were held back become known (`DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC`)."""


class BFCL(Benchmark):
    """The Berkeley Function-Calling Leaderboard: its data and its own checkers, of the package `bfcl-eval`.

    * AST categories: the calls that could be read go to `ast_checker`, as the model wrote them.
    * Irrelevance: right if no call could be read; an unreadable plan is therefore right, by BFCL's rule. Relevance: right if
      one could.
    * Multi-turn: one plan per turn, carried out on BFCL's backends; then `multi_turn_checker`.

    Java and JavaScript values are strings in the syntax of the language, as in BFCL. Nothing is coerced.

    Args:
        categories: categories to run; None for all of V3.
        scheme: summary of the scores: `v3`, or the parts of `v4`.
        max_tasks: maximum number of tasks to run, taken in turn from each category.
        package: the folder of `bfcl_eval`, if it is not installed.
        check_seconds: time limit of one check or call; a process that takes longer is killed and the task counts as wrong.
        memory_mib: address space of that process.

    Raises:
        ConfigError: `bfcl-eval` is missing, or a category or the scheme is unknown.
        DataError: its data cannot be read.
    """

    name = "BFCL"
    environment = AcknowledgingEnvironment()

    def __init__(
        self,
        categories: list[str] | None = None,
        scheme: Scheme = "v3",
        max_tasks: int | None = None,
        package: str | None = None,
        check_seconds: float = 30.0,
        memory_mib: int = 1024,
    ) -> None:
        unknown = sorted(set(categories or ()) - set(CATEGORIES))
        if unknown or scheme not in SCHEMES:
            raise ConfigError(
                f"BFCL has no category {unknown[0]!r}: use some of {', '.join(CATEGORIES)}"
                if unknown
                else f"BFCL has no scheme {scheme!r} here: use v3 or v4"
            )
        folder = package_folder(package)
        entries = [
            entry for name in CATEGORIES if name in (categories or CATEGORIES) for entry in load_entries(folder, name)
        ]
        self.entries = [entries[i] for i in spread([entry.category for entry in entries], max_tasks)]
        self.ids = [entry.id for entry in self.entries]
        self.scheme = SCHEMES[scheme]
        self._checker = Checker(folder, check_seconds, memory_mib)
        self._scheme: Scheme = scheme
        self._options = {
            "categories": categories or list(CATEGORIES),
            "scheme": scheme,
            "max_tasks": max_tasks,
            "bfcl_eval": _version() if package is None else "unknown",
            "check_seconds": check_seconds,
            "memory_mib": memory_mib,
        }

    def group(self, index: int) -> str:
        """Return the category."""
        return self.entries[index].category

    def task(self, index: int) -> Task:
        """Return the first turn."""
        entry = self.entries[index]
        return _task(entry, 0, list(entry.turns[0]))

    def check(self, index: int, trajectory: Trajectory) -> Record:
        """Return the verdict on a single-turn entry."""
        entry, calls = self.entries[index], trajectory.calls
        if entry.category in AST:
            assert entry.answer is not None
            return {**self._checker.check_calls(entry, calls), "gold_calls": len(entry.answer)}
        if entry.category in IRRELEVANCE:
            return {"success": not calls, "gold_calls": 0}
        assert entry.category in RELEVANCE
        return {"success": bool(calls), "gold_calls": 1}

    def run(self, indices: Sequence[int], evaluate: Evaluate) -> list[Record]:
        """Run single-turn entries at once, multi-turn ones turn by turn; return records in the order of the indices."""
        several = [i for i in indices if self.group(i) in MULTI_TURN]
        single = [i for i in indices if self.group(i) not in MULTI_TURN]
        records = super().run(single, evaluate) if single else []
        records += self._run_turns([self.entries[i] for i in several], evaluate)
        found = {one["id"]: one for one in records}
        return [found[self.ids[i]] for i in indices]

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Return the score of each category that was run, and the scheme's summary of them."""
        accuracy = by_group(records)
        return {**summarize(accuracy, Counter(r["group"] for r in records), self._scheme), **accuracy}

    def remarks(self, records: Sequence[Record]) -> list[str]:
        """Return remarks on categories not run, irrelevance by unreadable plans, lost checks, an open network."""
        remarks = []
        not_run = missing(Counter(r["group"] for r in records))
        if not_run:
            remarks.append(f"not run, and no part of any score: {', '.join(not_run)}")
        kept = [r for r in records if r["group"] in IRRELEVANCE and r["success"]]
        unreadable = sum(r["episodes"][0]["plan_error"] is not None for r in kept)
        if unreadable:
            remarks.append(
                f"{unreadable} of {len(kept)} right answers in irrelevance are plans that could not be read: BFCL counts "
                "whatever is no call as right there"
            )
        lost = sum((r.get("error") or "").startswith("checker: ") for r in records)
        if lost:
            remarks.append(
                f"{counted(lost, 'task counts', 'tasks count')} as wrong because BFCL's code raised, died or took too long; "
                "see `error` in the records"
            )
        if self._checker.network_cut_off is False:
            remarks.append("the process of the checkers could reach the network: this system did not let it be cut off")
        return remarks

    def options(self) -> dict[str, Any]:
        """Return all arguments, and the version of `bfcl-eval`."""
        return self._options

    def close(self) -> None:
        """End the process of the checkers."""
        self._checker.close()

    def _run_turns(self, entries: Sequence[Entry], evaluate: Evaluate) -> list[Record]:
        sessions = {entry.id: BackendSession(self._checker, entry) for entry in entries}
        messages: dict[str, list[Message]] = {entry.id: [] for entry in entries}
        episodes: dict[str, list[Trajectory]] = {entry.id: [] for entry in entries}
        made: dict[str, list[list[str]]] = {entry.id: [] for entry in entries}
        for turn in range(max((len(entry.turns) for entry in entries), default=0)):
            playing = [entry for entry in entries if turn < len(entry.turns)]
            tasks = []
            for entry in playing:
                messages[entry.id] += entry.turns[turn] or (Message("user", NEW_FUNCTIONS),)
                tasks.append(_task(entry, turn, messages[entry.id]))
            environment = Backends({task.id: sessions[e.id] for task, e in zip(tasks, playing, strict=True)})
            done = {entry.id: len(sessions[entry.id].calls) for entry in playing}
            for entry, episode in zip(playing, evaluate(tasks, environment), strict=True):
                episodes[entry.id].append(episode)
                messages[entry.id] += dialogue(episode)
                made[entry.id].append(sessions[entry.id].calls[done[entry.id] :])
        records = []
        for entry in entries:
            sessions[entry.id].end()
            assert entry.answer is not None
            verdict = self._checker.check_turns(entry, made[entry.id])
            gold_calls = sum(map(len, entry.answer))
            records.append(
                make_record(
                    entry.id, entry.category, episodes[entry.id], turns=made[entry.id], gold_calls=gold_calls, **verdict
                )
            )
        return records


def _task(entry: Entry, turn: int, messages: Sequence[Message]) -> Task:
    task = Task(f"{entry.id}/{turn}", tuple(messages), entry.tools(turn), tags={"category": entry.category})
    return task if turn else replace(task, id=entry.id)


def _version() -> str:
    try:
        return metadata.version("bfcl-eval")
    except metadata.PackageNotFoundError:
        return "unknown"
