"""What ExecutionFeedback writes to TensorBoard for rounds made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cahl_pl.callbacks import ExecutionFeedback
from cahl_pl.types import (
    Action,
    Feedback,
    GoldCall,
    Group,
    Message,
    Plan,
    RolloutBatch,
    Step,
    SubTask,
    Task,
    ToolCall,
    ToolSpec,
    Trajectory,
)

TOOLS = tuple(ToolSpec(name, "", {"type": "object", "properties": {}}) for name in ("clock", "weather"))


def step(tool, error=None, text="output"):
    return Step(SubTask("do it", tool), text, Action(call=ToolCall(tool, {})), Feedback("reply", error))


def episode(*steps, name="task", plan_text="plan"):
    task = Task(name, (Message("user", "what time is it?"),), TOOLS, (GoldCall("clock", {}),))
    return Trajectory(task, plan_text, Plan(tuple(s.subtask for s in steps)), steps)


def batch(trajectories, role="planner", **kwargs):
    return RolloutBatch(role, [], version=0, trajectories=trajectories, **kwargs)


def rewarded(trajectories, *rewards):
    """A planner's batch with the plans' rewards in groups of two."""
    ids = torch.tensor([0])
    groups = [
        Group(ids, [ids, ids], torch.tensor(pair), {}, torch.zeros(2), torch.zeros(2, dtype=torch.bool), comparison_id)
        for comparison_id, pair in enumerate(zip(rewards[::2], rewards[1::2], strict=True))
    ]
    return RolloutBatch("planner", groups, version=0, trajectories=trajectories)


@pytest.fixture
def written(trainer):
    """What stands in `trajectories.jsonl`."""

    def read():
        path = Path(trainer.loggers[0].log_dir) / "trajectories.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]

    return read


def end(callback, trainer, module, *batches):
    for item in batches:
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, item, 0)


def test_round_is_logged_once_at_the_global_step(trainer, module):
    first = [episode(step("clock")), episode(step("weather", "tool"), step("clock"))]
    second = [episode(step("weather", "tool"))]
    batches = [batch(first), batch(None, "executor"), batch(None, update=1), batch(second)]
    end(ExecutionFeedback(), trainer, module, *batches)
    scalars = trainer.scalars()
    assert scalars["task/success"] == [(1, 0.5), (4, 0)]
    assert scalars["tools/error_rate"] == [(1, pytest.approx(1 / 3)), (4, 1)]
    assert scalars["tools/success/clock"] == [(1, 1)]
    assert scalars["tools/success/weather"] == [(1, 0), (4, 0)]


def test_every_n_rounds_and_supervised_batches(trainer, module):
    rounds = [batch([episode(step("clock"))]) for _ in range(4)]
    warm_start = batch(None, objective="supervised")
    end(ExecutionFeedback(every_n_rounds=3), trainer, module, warm_start, *rounds)
    assert [x for x, _ in trainer.scalars()["task/success"]] == [2, 5]


def test_a_resumed_run_goes_on_counting(trainer, module):
    rounds = [batch([episode(step("clock"))]) for _ in range(4)]
    first = ExecutionFeedback(every_n_rounds=3, max_tools=1)
    end(first, trainer, module, *rounds[:2])
    second = ExecutionFeedback(every_n_rounds=3, max_tools=1)
    second.load_state_dict(first.state_dict())
    end(second, trainer, module, rounds[2], batch([episode(step("weather"), step("clock"))]))
    scalars = trainer.scalars()
    assert [x for x, _ in scalars["task/success"]] == [1, 4]
    assert "tools/success/weather" not in scalars


def test_only_offered_tools_get_curves_and_only_so_many(trainer, module):
    callback = ExecutionFeedback(max_tools=1)
    end(
        callback,
        trainer,
        module,
        batch([episode(step("rm -rf", "unknown_tool"), step("weather"), step("clock"))]),
    )
    assert [tag for tag in trainer.scalars() if tag.startswith("tools/success/")] == ["tools/success/weather"]


def test_text_shows_the_episode(trainer, module):
    failed = episode(step("clock", "tool", text="<tool_call>x</tool_call>"), step("clock"), name="t7")
    end(ExecutionFeedback(), trainer, module, batch([failed]))
    ((x, text),) = trainer.texts()["trajectories"]
    assert x == 1
    assert text.startswith("### Task t7: no success\n\n**Request**\n\n```\nwhat time is it?\n```\n\n**Plan**")
    assert "**Output**\n\n```\n<tool_call>x</tool_call>\n```\n\n**Feedback (error: tool)**" in text
    assert text.endswith('**Gold calls**\n\n```\n{"name": "clock", "parameters": {}}\n```')


def test_samples_are_spread_over_the_round(trainer, module):
    end(ExecutionFeedback(num_samples=2), trainer, module, batch([episode(name=f"t{i}") for i in range(6)]))
    ((_, text),) = trainer.texts()["trajectories"]
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### Task t0: no success",
        "### Task t3: no success",
    ]


def test_best_median_and_worst_plan_are_shown_where_rewards_are_known(trainer, module, written):
    episodes = [episode(step("clock"), name=f"t{i}") for i in range(6)]
    end(ExecutionFeedback(), trainer, module, rewarded(episodes, 0.5, 0.25, 1.0, 0.0, 0.75, 0.375))
    # from best to worst: t2 t4 t0 t5 t1 t3
    assert [(r["step"], r["id"], r["reward"]) for r in written()] == [(1, "t2", 1.0), (1, "t0", 0.5), (1, "t3", 0.0)]
    ((_, text),) = trainer.texts()["trajectories"]
    assert [line[9:11] for line in text.splitlines() if line.startswith("###")] == ["t2", "t0", "t3"]


def test_executions_of_a_plan_share_its_reward(trainer, module, written):
    episodes = [episode(name=f"t{i}") for i in range(4)]
    end(ExecutionFeedback(num_samples=4), trainer, module, rewarded(episodes, 0.25, 1.0))
    assert [(r["id"], r["reward"]) for r in written()] == [("t2", 1.0), ("t3", 1.0), ("t0", 0.25), ("t1", 0.25)]


@pytest.mark.parametrize("rewards", [(1.0, float("nan")), (1.0, 0.0, 0.5, 0.25)])
def test_rewards_that_do_not_belong_to_the_episodes_are_none(trainer, module, written, rewards):
    end(ExecutionFeedback(num_samples=2), trainer, module, rewarded([episode(), episode()], *rewards))
    assert [r["reward"] for r in written()] == [None, None]


def test_an_executors_rewards_are_not_those_of_plans(trainer, module, written):
    end(ExecutionFeedback(), trainer, module, replace(rewarded([episode(), episode()], 1.0, 0.0), role="executor"))
    assert [r["reward"] for r in written()] == [None, None]


def test_one_sample_is_the_median(trainer, module, written):
    episodes = [episode(name=f"t{i}") for i in range(4)]
    end(ExecutionFeedback(num_samples=1), trainer, module, rewarded(episodes, 0.0, 1.0, 0.5, 0.75))
    assert [r["id"] for r in written()] == ["t2"]


def test_the_file_holds_the_record_of_an_episode(trainer, module, written):
    end(ExecutionFeedback(max_characters=4), trainer, module, batch([episode(step("clock", "tool"), name="t7")]))
    (line,) = written()
    (shown,) = line["steps"]
    assert (line["step"], line["reward"], line["id"], line["success"]) == (1, None, "t7", True)
    assert (line["request"], line["plan"]) == ("what\n... (12 more characters)", "plan")
    assert shown["call"] == {"name": "clock", "parameters": {}}
    assert (shown["output"], shown["feedback"], shown["error"]) == (
        "outp\n... (2 more characters)",
        "repl\n... (1 more characters)",
        "tool",
    )
    assert line["gold"] == [{"name": "clock", "parameters": {}}]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(trainer, module, written):
    callback = ExecutionFeedback()
    callback.on_train_start(trainer, module)
    end(callback, trainer, module, *[batch([episode(name=f"t{i}")]) for i in range(4)])
    path = Path(trainer.loggers[0].log_dir) / "trajectories.jsonl"
    with path.open("a") as file:
        file.write('{"step": 1, "id": "torn')
    trainer.global_step = 2
    callback.on_train_start(trainer, module)
    end(callback, trainer, module, batch([episode(name="again")]))
    assert [(r["step"], r["id"]) for r in written()] == [(1, "t0"), (2, "t1"), (3, "again")]
    assert [file.name for file in path.parent.glob("trajectories*")] == ["trajectories.jsonl"]


def test_only_the_first_process_writes(trainer, module):
    trainer.is_global_zero = False
    callback = ExecutionFeedback()
    callback.on_train_start(trainer, module)
    end(callback, trainer, module, batch([episode()]))
    assert not Path(trainer.loggers[0].log_dir).joinpath("trajectories.jsonl").exists()


@pytest.mark.parametrize("hostile", ["\ud800", "\x00", "```\n# out", "`" * 5000, "x" * 10**6, "", "<script>"])
def test_hostile_text_is_quoted_whatever_it_is(trainer, module, written, hostile):
    trajectory = episode(step("clock", text=hostile), plan_text=hostile)
    end(ExecutionFeedback(max_characters=100), trainer, module, batch([trajectory]))
    ((_, text),) = trainer.texts()["trajectories"]
    assert len(text) < 2500
    # a block is only closed by a fence at least as long as its own
    fence = None
    outside = []
    for line in text.splitlines():
        run = len(line) - len(line.lstrip("`"))
        if fence is None and run >= 3:
            fence = run
        elif fence is not None and run >= fence and line.strip("`") == "":
            fence = None
        elif fence is None:
            outside.append(line)
    assert fence is None
    assert not [line for line in outside if "# out" in line or "<script>" in line]
    (line,) = written()
    assert line["plan"][:100] == hostile.replace("\ud800", "?")[:100]


def test_cut_text_says_how_much_is_missing(trainer, module):
    end(ExecutionFeedback(max_characters=10), trainer, module, batch([episode(plan_text="p" * 25)]))
    assert "p" * 10 + "\n... (15 more characters)\n```" in trainer.texts()["trajectories"][0][1]


def test_logger_without_text_gets_the_numbers(module, tmp_path):
    written = []
    logger = SimpleNamespace(
        log_dir=tmp_path, log_metrics=lambda values, step: written.append((step, values["task/success"]))
    )
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, loggers=[logger])
    end(ExecutionFeedback(), trainer, module, batch([episode(step("clock"))]))
    assert written == [(1, 1.0)]


def test_no_samples_no_text(trainer, module):
    end(ExecutionFeedback(num_samples=0), trainer, module, batch([episode(step("clock"))]))
    assert trainer.texts() == {}
    assert not Path(trainer.loggers[0].log_dir).joinpath("trajectories.jsonl").exists()


@pytest.mark.parametrize("kwargs", [{"every_n_rounds": 0}, {"num_samples": -1}, {"max_characters": 0}])
def test_bad_numbers_are_named(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=rf"ExecutionFeedback.{name} is {value}: give \d or more"):
        ExecutionFeedback(**kwargs)
