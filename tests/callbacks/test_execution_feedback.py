"""What ExecutionFeedback writes to TensorBoard for rounds made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cahl_pl.callbacks import ExecutionFeedback
from cahl_pl.types import (
    Action,
    Feedback,
    GoldCall,
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


@pytest.mark.parametrize("hostile", ["\ud800", "\x00", "```\n# out", "`" * 5000, "x" * 10**6, "", "<script>"])
def test_hostile_text_is_quoted_whatever_it_is(trainer, module, hostile):
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


def test_cut_text_says_how_much_is_missing(trainer, module):
    end(ExecutionFeedback(max_characters=10), trainer, module, batch([episode(plan_text="p" * 25)]))
    assert "p" * 10 + "\n... (15 more characters)\n```" in trainer.texts()["trajectories"][0][1]


def test_logger_without_text_gets_the_numbers(module):
    written = []
    logger = SimpleNamespace(log_metrics=lambda values, step: written.append((step, values["task/success"])))
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, loggers=[logger])
    end(ExecutionFeedback(), trainer, module, batch([episode(step("clock"))]))
    assert written == [(1, 1.0)]


def test_no_samples_no_text(trainer, module):
    end(ExecutionFeedback(num_samples=0), trainer, module, batch([episode(step("clock"))]))
    assert trainer.texts() == {}


@pytest.mark.parametrize("kwargs", [{"every_n_rounds": 0}, {"num_samples": -1}, {"max_characters": 0}])
def test_bad_numbers_are_named(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=rf"ExecutionFeedback.{name} is {value}: give \d or more"):
        ExecutionFeedback(**kwargs)
