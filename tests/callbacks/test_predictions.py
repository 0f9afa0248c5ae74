"""The file and the text that PredictionWriter makes of episodes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cahl_pl.callbacks import PredictionWriter, predictions
from cahl_pl.errors import ConfigError
from cahl_pl.parsing import parse_action, parse_plan
from cahl_pl.runs.records import record
from cahl_pl.types import Feedback, GoldCall, Message, Step, Task, ToolSpec, Trajectory

TASK = Task("t1", (Message("user", "Time?"),), (ToolSpec("now", "", {"type": "object"}),), (GoldCall("now", {}),))
PLAN = '<plan>\n{"task": "look", "tool": "now", "parameters": {}}\n</plan>'
CALL = '<tool_call>{"name": "now", "parameters": {}}</tool_call>'


def episode(plan_text=PLAN, output=CALL, feedback='"12:00"') -> dict:
    plan = parse_plan(plan_text)
    steps = tuple(Step(z, output, parse_action(output), Feedback(feedback)) for z in plan.subtasks)
    return record(Trajectory(TASK, plan_text, plan, steps))


@pytest.fixture
def trainer(tmp_path):
    return SimpleNamespace(loggers=[], default_root_dir=str(tmp_path), world_size=1, is_global_zero=True)


@pytest.fixture
def predict(trainer, capsys):
    def run(callback, *batches):
        callback.on_predict_start(trainer, None)
        for index, episodes in enumerate(batches):
            callback.on_predict_batch_end(trainer, None, episodes, None, index)
        callback.on_predict_end(trainer, None)
        return capsys.readouterr().out

    return run


def test_every_episode_is_a_line_of_the_file(predict, tmp_path):
    shown = predict(PredictionWriter(), [episode()], [episode("no plan")])
    path = tmp_path / "predictions.jsonl"
    good, bad = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert good == {
        "id": "t1",
        "request": "Time?",
        "plan": PLAN,
        "plan_error": None,
        "plan_thinking_tokens": 0,
        "steps": [
            {
                "task": "look",
                "output": CALL,
                "thinking_tokens": 0,
                "call": {"name": "now", "parameters": {}},
                "answer": None,
                "feedback": '"12:00"',
                "error": None,
            }
        ],
        "gold": [{"name": "now", "parameters": {}}],
        "success": True,
    }
    assert (bad["steps"], bad["success"]) == ([], False)
    assert bad["plan_error"]
    assert shown == (
        f'\nrequest  Time?\nstep 1   look\n  output    {CALL}\n  feedback  "12:00"\n'
        f"\nrequest  Time?\nplan     unreadable: {bad['plan_error']}\n"
        f"written: {path}\n"
    )


def test_a_new_run_replaces_the_file_and_shows_episodes_again(predict, tmp_path):
    callback = PredictionWriter(str(tmp_path / "deep" / "er" / "p.jsonl"), show=3)
    for _ in range(2):
        shown = predict(callback, [episode()] * 2, [episode()] * 2)
        assert shown.count("request") == 3
        assert len((tmp_path / "deep" / "er" / "p.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("hostile", ["\ud800", "\u2028", "\x00\n"])
def test_hostile_text_is_written_and_shown(predict, tmp_path, hostile):
    shown = predict(PredictionWriter(), [episode(output=hostile, feedback=hostile)])
    shown.encode("utf-8")
    (line,) = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert json.loads(line)["steps"][0]["output"] == hostile.replace("\ud800", "?")


def test_a_full_disk_costs_a_warning(predict, tmp_path):
    path = tmp_path / "full.jsonl"
    path.symlink_to("/dev/full")
    shown = predict(PredictionWriter(str(path)), [episode()], [episode()])
    assert shown.count(f"warning: episodes could not be written to {path} (No space left on device)") == 1
    assert f"written, but not all of it: {path}" in shown


def test_a_folder_that_cannot_be_is_named(predict, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the output folder \S*file/x cannot be written to"):
        predict(PredictionWriter(str(tmp_path / "file" / "x" / "predictions.jsonl")))


def test_the_first_of_several_processes_writes_all_in_order(trainer, tmp_path, monkeypatch, capsys):
    """The second process has tasks 1 and 3 of the first loader, and none of the second."""
    own = [{**episode(), "id": f"t{i}"} for i in (0, 2, 4)]
    theirs = {0: [{**episode(), "id": f"t{i}"} for i in (1, 3)]}
    monkeypatch.setattr(predictions, "gather_over_processes", lambda kept: [kept, theirs])
    trainer.world_size = 2
    callback = PredictionWriter(show=1)
    callback.on_predict_start(trainer, None)
    callback.on_predict_batch_end(trainer, None, own[:2], None, 0, 0)
    callback.on_predict_batch_end(trainer, None, own[2:], None, 1, 0)
    callback.on_predict_batch_end(trainer, None, [{**episode(), "id": "u0"}], None, 0, 1)
    callback.on_predict_end(trainer, None)
    written = [json.loads(line)["id"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert written == ["t0", "t1", "t2", "t3", "t4", "u0"]
    assert capsys.readouterr().out.count("request  ") == 1
    (tmp_path / "predictions.jsonl").unlink()
    trainer.is_global_zero = False
    callback.on_predict_start(trainer, None)
    callback.on_predict_end(trainer, None)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "predictions.jsonl").exists()
