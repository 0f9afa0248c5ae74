"""What BeforeAfter measures, writes and keeps over a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from cahl_pl.callbacks import BeforeAfter, TokenBudget, before_after
from cahl_pl.callbacks.before_after import COLUMNS
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.metrics import ToolUse
from cahl_pl.parsing import format_call, format_plan, parse_action
from cahl_pl.rollout.gold import gold_plan
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Plan, Step, Trajectory


class Oracle(RolloutDataModule):
    """Solves the first `skill` tasks of each test set, and plans nothing for the others."""

    skill = 0

    def __init__(self, **test):
        super().__init__(ToolWorld(size=1), RecordedEnvironment(), test=test, eval_batch_size=2)
        self.asked = []

    def evaluate(self, tasks):
        self.asked.append([task.id for task in tasks])
        self.evaluated_tokens += 10 * len(tasks) + 3  # three more a batch
        return [self.episode(task) for task in tasks]

    def episode(self, task):
        if task.id not in self.solved:
            return Trajectory(task, "", Plan(error="empty plan"))
        texts = [format_call(gold.call) for gold in task.gold]
        plan = gold_plan(task)
        steps = tuple(Step(z, text, parse_action(text)) for z, text in zip(plan, texts, strict=True))
        return Trajectory(task, format_plan(plan), Plan(plan), steps)

    @property
    def solved(self):
        return {source[i].id for source in self.test_tasks.values() for i in range(min(self.skill, len(source)))}


@pytest.fixture
def data():
    # kinds with gold calls only: an episode without steps would not solve the others
    return Oracle(
        test=ToolWorld("test", 5, proportions={"single": 1.0}), odd=ToolWorld("test", 1, proportions={"single": 1.0})
    )


@pytest.fixture
def trainer(data, tmp_path):
    return SimpleNamespace(
        datamodule=data,
        is_global_zero=True,
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        global_step=7,
        callbacks=[],
        callback_metrics={},
        loggers=[],
        default_root_dir=str(tmp_path / "run"),
    )


def test_the_summary_holds_success_before_and_after(data, trainer, tmp_path, capsys):
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    assert [len(ids) for ids in data.asked] == [2, 2, 1, 1]  # every task once, in batches
    data.skill = 3
    callback.on_fit_end(trainer, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"] == {"before": 0.0, "after": pytest.approx(0.6)}
    assert summary["odd"] == {"before": 0.0, "after": 1.0}
    details = summary["details"]["test"]
    assert details["before"]["plan/parse_error_rate"] == 1
    assert details["after"]["tools/calls_per_success"] == 1
    assert details["solved"] == "11100"  # in the order of the tasks
    shown = capsys.readouterr().out
    assert "0.000 -> 0.600" in shown
    assert f"written: {tmp_path / 'run' / 'summary.json'}" in shown


def test_the_details_hold_the_cost(data, trainer, tmp_path):
    callback = BeforeAfter()
    data.evaluated_tokens = 1000  # by a validation before
    callback.on_fit_start(trainer, None)
    budget = TokenBudget(100)
    budget.tokens = 120
    for callbacks, tokens in (([], None), ([budget], 120)):
        trainer.callbacks = callbacks
        callback.on_fit_end(trainer, None)
        details = json.loads((tmp_path / "run" / "summary.json").read_text())["details"]
        assert details["training"] == {"steps": 7, "tokens": tokens}
        assert details["test"]["before"]["tokens_per_task"] == pytest.approx(59 / 5)
        assert details["odd"]["after"]["tokens_per_task"] == 13


def test_a_long_measurement_says_how_far_it_is(data, trainer, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))  # seconds
    monkeypatch.setattr(before_after.time, "monotonic", lambda: float(next(clock)))
    BeforeAfter().on_fit_start(trainer, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [lines[0], "measured 4 of 6"]


def test_only_the_end_is_measured_on_request(data, trainer, tmp_path, capsys):
    callback = BeforeAfter(before=False)
    callback.on_fit_start(trainer, None)
    assert data.asked == []
    data.skill = 5
    callback.on_fit_end(trainer, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"] == {"before": None, "after": 1.0}
    assert summary["details"]["test"]["before"] is None
    assert "->" not in capsys.readouterr().out


def test_a_test_writes_its_values(data, trainer, tmp_path):
    """Two batches of one set and one of the other, and one of a benchmark, whose tokens belong to neither."""
    callback = BeforeAfter()
    data.evaluated_tokens = 1000
    callback.on_test_start(trainer, None)
    for loader, batch, solved in ((0, [1, 2], [True, False]), (0, [3], [True]), (1, [4], [False])):
        data.evaluated_tokens += 50 * len(batch)
        callback.on_test_batch_end(trainer, None, {"solved": solved}, batch, 0, loader)
    data.evaluated_tokens += 9
    callback.on_test_batch_end(trainer, None, {"solved": []}, [5], 0, 2)
    trainer.callback_metrics = {"test/task/success": torch.tensor(0.5), "test2/x": torch.tensor(1.0), "step": 3.0}
    callback.on_test_end(trainer, None)
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == {
        "test/task/success": 0.5,
        "test/tokens_per_task": 50.0,
        "odd/tokens_per_task": 50.0,
        "solved": {"test": "101", "odd": "0"},
    }


def test_what_several_processes_have_solved_is_in_the_order_of_the_tasks(data, trainer, tmp_path, monkeypatch):
    callback = BeforeAfter()
    callback.on_test_start(trainer, None)
    callback.on_test_batch_end(trainer, None, {"solved": [True, True, False]}, [0, 2, 4], 0, 0)
    other = iter([[False, True], []])  # tasks 1 and 3 of `test`, none of `odd`
    monkeypatch.setattr(before_after, "gather_over_processes", lambda own: [own, next(other)])
    callback.on_test_end(trainer, None)
    assert json.loads((tmp_path / "run" / "test.json").read_text())["solved"]["test"] == "10110"


@pytest.mark.parametrize("name", ["summary.json", "test.json"])
def test_half_a_file_is_never_there(data, trainer, tmp_path, monkeypatch, name):
    """That it is there tells comparing tools that the run is finished."""

    def fill(path, text, **options):
        path.write_bytes(text.encode()[:5])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fill)
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    end = callback.on_fit_end if name == "summary.json" else callback.on_test_end
    with pytest.raises(OSError, match="disk full"):
        end(trainer, None)
    assert not (tmp_path / "run" / name).exists()


def test_a_test_without_test_sets_writes_nothing(trainer, tmp_path):
    trainer.datamodule = Oracle()
    callback = BeforeAfter()
    callback.on_test_start(trainer, None)
    callback.on_test_end(trainer, None)
    assert not (tmp_path / "run").exists()


def test_one_task_is_one_and_unreadable_plans_are_in_the_table(data, trainer, capsys):
    data.test_tasks = {"test": ToolWorld("test", 1)}
    data.evaluate = lambda tasks: [Trajectory(task, "?", Plan(error="no plan")) for task in tasks]
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    assert (
        capsys.readouterr().out
        == "measuring 1 test task before training (lower BeforeAfter.max_tasks to measure fewer)\n"
    )
    callback.on_fit_end(trainer, None)
    out = capsys.readouterr().out
    assert "parse_error_rate" in out
    assert "1.000 -> 1.000" in out


def test_only_so_many_tasks_are_run(data, trainer):
    BeforeAfter(max_tasks=3).on_fit_start(trainer, None)
    assert [len(ids) for ids in data.asked] == [2, 1, 1]


def test_only_the_first_process_writes(data, trainer, tmp_path):
    trainer.is_global_zero = False
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    callback.on_fit_end(trainer, None)
    assert not (tmp_path / "run").exists()


def test_without_test_sets_nothing_is_written(trainer, tmp_path):
    trainer.datamodule = Oracle()
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    callback.on_fit_end(trainer, None)
    assert not (tmp_path / "run").exists()


def test_a_test_set_that_a_resumed_run_adds_has_no_before(data, trainer, tmp_path):
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    data.test_tasks["new"] = ToolWorld("test", 1)
    callback.on_fit_end(trainer, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary) == {"test", "odd", "new", "details"}
    assert summary["new"]["before"] is None
    assert summary["test"]["before"] is not None


def test_a_start_that_was_measured_on_other_tasks_is_not_shown_beside_the_end(data, trainer, tmp_path, capsys):
    first, resumed = BeforeAfter(), BeforeAfter()
    first.on_fit_start(trainer, None)
    resumed.load_state_dict(first.state_dict())
    then = len(data.test_tasks["test"])
    data.test_tasks["test"] = ToolWorld("test", then + 1)
    resumed.on_fit_start(trainer, None)
    assert (
        f"before training test had {then} tasks, now it has {then + 1}: no value before is shown"
        in capsys.readouterr().out
    )
    resumed.on_fit_end(trainer, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test"]["before"] is None
    assert summary["odd"]["before"] is not None


def test_a_resumed_run_keeps_its_before(tmp_path, monkeypatch):
    """With a real trainer: the callback's state has to be back before training starts."""
    columns = COLUMNS[1:]
    values = iter((0.1, 0.2, 0.3))
    monkeypatch.setattr(
        BeforeAfter,
        "_measure",
        lambda self, trainer, when: {"test": {"task/success": next(values), **dict.fromkeys(columns, 0.0)}},
    )

    def fit(steps, ckpt_path=None):
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            default_root_dir=tmp_path,
            callbacks=[BeforeAfter()],
        )
        trainer.fit(BoringModel(), ckpt_path=ckpt_path)
        return trainer

    fit(1).save_checkpoint(tmp_path / "first.ckpt")
    assert json.loads((tmp_path / "summary.json").read_text())["test"] == {"before": 0.1, "after": 0.2}
    fit(2, tmp_path / "first.ckpt")
    assert json.loads((tmp_path / "summary.json").read_text())["test"] == {"before": 0.1, "after": 0.3}


def test_processes_share_the_tasks_and_add_up_what_they_found(data, trainer, monkeypatch):
    """As the second of two, with sums as they are where both find the same; what is counted lies on the device."""
    metrics = []
    monkeypatch.setattr(before_after, "sum_over_processes", lambda values: [2 * value for value in values])
    monkeypatch.setattr(before_after, "gather_over_processes", lambda own: [dict.fromkeys([0, 2, 4], True), own])
    monkeypatch.setattr(before_after, "ToolUse", lambda: metrics.append(ToolUse()) or metrics[-1])
    trainer.global_rank, trainer.world_size, trainer.is_global_zero = 1, 2, False
    callback = BeforeAfter()
    callback.on_fit_start(trainer, None)
    tests, (odd,) = ([data.test_tasks[name][i].id for i in own] for name, own in (("test", [1, 3]), ("odd", [0])))
    assert data.asked == [tests]  # of the one odd task it has none
    assert callback._before["test"]["tokens_per_task"] == pytest.approx(2 * 23 / 5)
    assert callback._solved["test"] == "10101"
    assert odd not in [task for asked in data.asked for task in asked]
    trainer.strategy.root_device = torch.device("meta")
    with pytest.raises(RuntimeError, match="meta"):  # no value can be read there
        callback.on_fit_end(trainer, None)
    assert metrics[-1].counts.device.type == "meta"
