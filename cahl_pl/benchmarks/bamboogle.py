"""Bamboogle (arXiv 2210.03350): two-hop questions, answered by searching in several rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cahl_pl.benchmarks.answers import Judge, exact_match, f1, substring_match
from cahl_pl.benchmarks.base import Benchmark, Evaluate, Record, make_record, share, spread
from cahl_pl.benchmarks.search import SEARCH_TOOL, Search, SearchEnvironment
from cahl_pl.datasets.rows import get_field, read_rows
from cahl_pl.errors import ConfigError, DataError
from cahl_pl.plurals import counted
from cahl_pl.prompts import dialogue
from cahl_pl.types import Message, Task, Trajectory

Headline: TypeAlias = Literal["exact_match", "substring_match", "judge"]

LAST_ROUND = "Answer the question now, in a few words and without searching."


class Bamboogle(Benchmark):
    """Questions answered in rounds: each round is a plan, whose searches are carried out and shown to the next one.

    A question ends with its first answer, with a round that neither searches nor answers, or with the last round, which
    offers no tool and asks for the answer. Its prediction is the last answer of the round that ended it.

    Args:
        path: the questions, a JSON list of `{"Question", "Answer"}`.
        search: search engine.
        rounds: maximum number of plans for a question.
        judge: judge, in addition to exact match, sub-string match and F1; None for no judge.
        headline: the one of them that is `overall`, and a success; None: `judge` if there is one, else `exact_match`.
        max_tasks: maximum number of questions to run, the first ones.

    Raises:
        ConfigError: `rounds` is below 1, or the headline is a judge and there is none.
        DataError: the file is missing or a row cannot be read.
    """

    name = "Bamboogle"

    def __init__(
        self,
        path: str | Path,
        search: Search,
        rounds: int = 4,
        judge: Judge | None = None,
        headline: Headline | None = None,
        max_tasks: int | None = None,
    ) -> None:
        headline = headline or ("exact_match" if judge is None else "judge")
        if rounds < 1 or (headline == "judge" and judge is None):
            raise ConfigError(
                f"Bamboogle: rounds must be at least 1, not {rounds}, and the headline judge needs a judge"
            )
        questions = []
        for row in read_rows(path):
            try:
                if row.fault is not None:
                    raise DataError(row.fault)
                questions.append((get_field(row.value, "Question", str), get_field(row.value, "Answer", str)))
            except DataError as error:
                raise DataError(f"{row.where}: {error}; correct the row") from None
        self.questions = [questions[i] for i in spread(["all"] * len(questions), max_tasks)]
        self.ids = [f"bamboogle-{i}" for i in range(len(self.questions))]
        self.environment = SearchEnvironment(search)
        self.rounds = rounds
        self.judge = judge
        self.headline: Headline = headline
        self.scheme = f"{headline.replace('_', ' ')}, {counted(rounds, 'round')} of search"
        self._options = {
            "path": str(path),
            "search": search.options(),
            "rounds": rounds,
            "judge": None if judge is None else judge.options(),
            "headline": headline,
            "max_tasks": max_tasks,
        }

    def group(self, index: int) -> str:
        """Return the only group."""
        return "overall"

    def task(self, index: int) -> Task:
        """Return the first round."""
        return self._task(index, 0, [Message("user", self.questions[index][0])])

    def run(self, indices: Sequence[int], evaluate: Evaluate) -> list[Record]:
        """Run the questions round by round, all that are still open at once; return one record each."""
        messages = {i: list(self.task(i).messages) for i in indices}
        episodes: dict[int, list[Trajectory]] = {i: [] for i in indices}
        still_open = list(indices)
        for number in range(self.rounds):
            if number and number == self.rounds - 1:
                for i in still_open:
                    messages[i].append(Message("user", LAST_ROUND))
            tasks = [self._task(i, number, messages[i]) for i in still_open]
            for i, episode in zip(still_open, evaluate(tasks, self.environment), strict=True):
                episodes[i].append(episode)
                messages[i] += dialogue(episode)
            still_open = [i for i in still_open if episodes[i][-1].calls and _answer(episodes[i][-1]) is None]
            if not still_open:
                break
        return [
            make_record(
                self.ids[i], self.group(i), episodes[i], rounds=len(episodes[i]), **self.check(i, episodes[i][-1])
            )
            for i in indices
        ]

    def check(self, index: int, trajectory: Trajectory) -> Record:
        """Apply all scorers to the last round's answer; without an answer all say wrong, and no judge is asked."""
        question, gold = self.questions[index]
        prediction = _answer(trajectory)
        answer = prediction or ""
        verdict: Record = {
            "prediction": prediction,
            "gold": gold,
            "exact_match": exact_match(answer, gold),
            "substring_match": substring_match(answer, gold),
            "f1": f1(answer, gold),
        }
        if self.judge is not None:
            verdict["judge"] = self.judge(question, gold, prediction) if prediction is not None else False
        return {"success": bool(verdict[self.headline]), **verdict}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Return `overall` by the headline, all scorers, searches per question and the share of questions with an answer."""
        names = ["exact_match", "substring_match", "f1", *(["judge"] if self.judge is not None else [])]
        return {
            "overall": share(r["success"] for r in records),
            **{name: share(float(r[name] or 0) for r in records) for name in names},
            "answered": share(r["prediction"] is not None for r in records),
            "searches_per_question": share(
                sum(step["call"] is not None for episode in r["episodes"] for step in episode["steps"]) for r in records
            ),
        }

    def remarks(self, records: Sequence[Record]) -> list[str]:
        """Return a remark on the number of unclear verdicts of the judge."""
        unclear = sum(r.get("judge", False) is None for r in records)
        told = counted(unclear, "verdict of the judge was", "verdicts of the judge were")
        return [f"{told} neither Yes nor No and counted as wrong"] if unclear else []

    def options(self) -> dict[str, Any]:
        """Return all arguments, including those of search and judge; no key."""
        return self._options

    def _task(self, index: int, number: int, messages: Sequence[Message]) -> Task:
        tools = () if number and number == self.rounds - 1 else (SEARCH_TOOL,)
        return Task(f"{self.ids[index]}/{number}" if number else self.ids[index], tuple(messages), tools)


def _answer(trajectory: Trajectory) -> str | None:
    """Return the last answer in text of an episode."""
    answers = [step.action.answer for step in trajectory.steps if step.action.answer is not None]
    return answers[-1] if answers else None
