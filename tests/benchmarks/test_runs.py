"""A run of a benchmark: what is written, what a restart repeats, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cahl_pl.benchmarks.base import Benchmark, by_group
from cahl_pl.benchmarks.runs import BenchmarkRun, efficiency
from cahl_pl.datasets import DataError
from cahl_pl.environments import AcknowledgingEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.types import Message, Task, ToolCall, ToolSpec

ADD = ToolSpec("add", "", {"type": "object", "properties": {"a": {"type": "integer"}}})


class Sums(Benchmark):
    """`size` tasks; a call with the task's number is right."""

    name = "Sums"
    scheme = "exact"
    environment = AcknowledgingEnvironment()

    def __init__(self, size=5, option=1):
        self.ids = [f"sum-{i}" for i in range(size)]
        self.option = option

    def group(self, index):
        return "even" if index % 2 == 0 else "odd"

    def task(self, index):
        return Task(self.ids[index], (Message("user", f"{index}?"),), (ADD,))

    def check(self, index, trajectory):
        return {"success": [call.arguments["a"] for call in trajectory.calls] == [index], "gold_calls": 1}

    def score(self, records):
        return by_group(records)

    def options(self):
        return {"option": self.option}


class Model:
    """Right in every task but number 3, at 7 tokens a task."""

    def __init__(self, writing):
        self.evaluated_tokens = 0
        self._evaluate = writing(lambda task: [ToolCall("add", {"a": int(task.id[4:]) % 3})])
        self.tasks = self._evaluate.tasks

    def evaluate(self, tasks, environment=None):
        self.evaluated_tokens += 7 * len(tasks)
        return self._evaluate(tasks, environment)


@pytest.fixture
def model(writing):
    return Model(writing)


@pytest.fixture
def start(tmp_path, model):
    return lambda benchmark=None, **settings: BenchmarkRun(benchmark or Sums(), "sums", tmp_path, settings, model)


def ids(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_records_are_on_disk_after_every_batch_and_the_report_at_the_end(start, tmp_path, capsys):
    run = start(seed=3)
    run.step([0, 1, 2])
    assert ids(tmp_path / "sums.jsonl") == ["sum-0", "sum-1", "sum-2"]
    assert json.loads((tmp_path / "sums.json").read_text())["complete"] is False
    run.step([3, 4])
    # 3 and 4 are answered with 0 and 1
    assert run.finish() == pytest.approx(
        {"even": 2 / 3, "odd": 0.5, **efficiency(list(run.records.values()))}, abs=1e-9
    )
    report = json.loads((tmp_path / "sums.json").read_text())
    assert report["scores"] == pytest.approx({"even": 2 / 3, "odd": 0.5})
    assert report["denominators"] == {"even": 3, "odd": 2, "all": 5}
    assert (report["benchmark"], report["scheme"], report["complete"]) == ("Sums", "exact", True)
    assert (report["options"], report["run"], report["remarks"]) == ({"option": 1}, {"seed": 3}, [])
    assert report["efficiency"]["tokens_per_task"] == 7
    assert report["efficiency"]["tools/calls_per_success"] == 1
    assert report["efficiency"]["tools/excess"] == 0
    assert report["efficiency"]["seconds_per_task"] > 0
    assert "task/success" not in report["efficiency"]
    assert "Sums, exact" in capsys.readouterr().out


def test_a_restart_repeats_nothing_and_loses_nothing(start, model, tmp_path):
    start().step([0, 1])
    path = tmp_path / "sums.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + before[: len(before) // 3])  # killed while writing
    again = start()
    again.step([0, 1, 2])
    again.step([3, 4])
    assert [task.id for task in model.tasks] == ["sum-0", "sum-1", "sum-2", "sum-3", "sum-4"]
    assert path.read_bytes().startswith(before)
    assert ids(path) == [f"sum-{i}" for i in range(5)]
    assert again.finish()["even"] == pytest.approx(2 / 3)
    third = start()
    third.step([0, 1, 2, 3, 4])
    assert len(model.tasks) == 5
    assert third.finish()["odd"] == 0.5


def test_a_share_of_the_tasks_is_named(start, tmp_path):
    run = start()
    run.step([0])
    run.finish()
    assert json.loads((tmp_path / "sums.json").read_text())["remarks"] == ["only 1 of 5 tasks have been run"]


def test_records_of_other_settings_are_refused(start, tmp_path):
    start(seed=3).step([0])
    with pytest.raises(
        ConfigError, match=r"sums\.jsonl holds records of another run \(options\.option, run\.seed differ\)"
    ):
        start(Sums(option=2), seed=4)


@pytest.mark.parametrize("content", [None, "{", "[]", "[" * 100_000, '{"run": ' * 50_000])
def test_records_without_their_report_are_refused(start, tmp_path, content):
    start(seed=3).step([0])
    (tmp_path / "sums.json").unlink()
    if content is not None:
        (tmp_path / "sums.json").write_text(content)
    with pytest.raises(ConfigError, match=r"the report is missing or unreadable: .*sums\.json tells what settings"):
        start(seed=3)


def test_a_second_run_in_the_folder_is_kept_out_until_the_first_has_finished(start, tmp_path):
    first = start()
    first.step([0])
    with pytest.raises(ConfigError, match=r"another run is writing .*sums\.jsonl: wait for its end"):
        start()
    first.step([1])
    first.finish()
    assert list(start().records) == ["sum-0", "sum-1"]


def test_a_run_that_was_stopped_can_be_started_again_beside_it(start, model, monkeypatch):
    def stop(tasks, environment=None):
        raise KeyboardInterrupt

    first = start()
    first.step([0])
    monkeypatch.setattr(model, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        first.step([1])
    assert list(start().records) == ["sum-0"]


def test_a_folder_that_cannot_be_is_told_before_anything_is_run(model, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "sums.jsonl").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "taken", Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"data.results: {folder} cannot hold the records of sums"):
            BenchmarkRun(Sums(), "sums", folder, {}, model)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{}", "not a record"),
        ("7", "not a record"),
        ('{"id": ["a"]}', "not a record"),
        ("[" * 100_000, "not a record"),
        ('{"id": "sum-1"}', "not a record"),
        ('{"id": "sum-0"}', "appears twice"),
        ('{"id": "x"}', "no task of this"),
    ],
)
def test_a_broken_line_is_named(start, tmp_path, line, fault):
    start().step([0])
    with (tmp_path / "sums.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"line 2: .*{fault}"):
        start()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("success", "false"),
        ("success", float("nan")),
        ("group", None),
        ("counts", None),
        ("counts", {"calls": "1"}),
        ("counts", {"calls": 10**30}),
        ("tokens", float("nan")),
        ("seconds", float("inf")),
        ("seconds", None),
    ],
)
def test_a_record_with_a_spoilt_value_is_named(start, tmp_path, key, value):
    start().step([0, 1])
    path = tmp_path / "sums.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + json.dumps({**json.loads(second), key: value}) + "\n")
    with pytest.raises(DataError, match="line 2: not a record"):
        start()


def test_hostile_text_is_written_and_read_back(tmp_path, writing):
    model = Model(writing)
    model._evaluate = writing(lambda task: "\ud800\n\x00\u2028")
    run = BenchmarkRun(Sums(1), "sums", tmp_path, {}, model)
    run.step([0])
    run.finish()
    again = BenchmarkRun(Sums(1), "sums", tmp_path, {}, model)
    assert again.records["sum-0"]["episodes"][0]["plan"] == "?\n\x00\u2028"


def test_without_a_folder_nothing_is_written(model, tmp_path, capsys):
    run = BenchmarkRun(Sums(), "val", None, {}, model)
    assert run.finish() == {}
    run.step([0, 1])
    assert run.finish()["even"] == 1
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
