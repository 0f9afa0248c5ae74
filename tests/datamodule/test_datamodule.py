"""The stream of role batches: its length, which tasks it holds, where it resumes, and evaluation beside it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets import JsonlDataset
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.metrics import ToolUse
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.rewards import TurnReward
from cahl_pl.rewards.outcome import OutcomeExecutorReward, OutcomePlannerReward
from cahl_pl.rollout.config import InferenceConfig, RolloutConfig
from cahl_pl.sampling import RewardSampler
from cahl_pl.schedules import Alternate, ExecutorOnly, PlannerOnly, Ratio
from cahl_pl.toolworld import ToolWorld
from cahl_pl.types import Plan
from tests.datamodule.batches import Silent, contents, requests_of

SCHEDULES = [Alternate(), Alternate("executor"), PlannerOnly(), ExecutorOnly(), Ratio(2, 3), Ratio(3, 1)]


class Babble(Engine):
    """Random ids, as many as the length limit says."""

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        def completion():
            ids = torch.randint(3, 200, (sampling.max_new_tokens,), generator=generator)
            return Completion(ids, torch.zeros(len(ids)), ended=False)

        return [[completion() for _ in range(num_samples)] for _ in prompts]


class Asked(Babble):
    """Random ids, and a note of who was asked for how many completions of which prompts."""

    def __init__(self):
        self.requests = []

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        self.requests.append((role, num_samples, [list(prompt) for prompt in prompts], sampling))
        return super().generate(policy, role, prompts, num_samples, sampling, generator)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize(("size", "per_round", "updates"), [(5, 2, 1), (4, 4, 3), (3, 10, 2), (1, 1, 1), (7, 1, 1)])
def test_the_stream_is_as_long_as_it_says_epoch_after_epoch(make, schedule, size, per_round, updates):
    data = make(size, tasks_per_round=per_round, updates_per_round=updates, schedule=schedule)
    rounds = 0
    for epoch in range(3):
        loader = data.train_dataloader()
        expected = len(loader)
        # in each epoch the schedule goes on where it stood
        roles = [r for i in range(rounds, rounds + data.rounds_per_epoch) for r in schedule.roles(i) * updates]
        batches = list(loader)
        assert [batch.role for batch in batches] == roles
        assert len(batches) == expected
        rounds += data.rounds_per_epoch
        assert (data.stream.epoch, data.stream.round, data.stream.pending) == (epoch + 1, 0, [])


def test_every_task_stands_once_in_an_epoch_and_the_order_changes(make):
    data = make(7, tasks_per_round=3, schedule=PlannerOnly())
    epochs = [[name for names in requests_of(data.batches()) for name in names] for _ in range(3)]
    for names in epochs:
        assert sorted(names) == [f"t{i}" for i in range(7)]
    assert len({tuple(names) for names in epochs}) == 3
    assert [len(names) for names in requests_of(data.batches())] == [3, 3, 1]


def test_the_order_depends_on_the_seed_alone(make):
    first, same, other = (requests_of(make(7, seed=seed, schedule=PlannerOnly()).batches()) for seed in (1, 1, 2))
    assert first == same != other


def test_a_state_from_within_a_round_gives_the_same_next_batches(make):
    data = make(5, updates_per_round=2)
    stream = data.batches()
    for _ in range(5):  # the first round's four batches, and one of the second round's
        next(stream)
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    rest = contents([*stream, *data.batches()])
    assert [b[0] for b in rest[:3]] == ["executor", "planner", "executor"]
    again = make(5, updates_per_round=2)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert contents([*again.batches(), *again.batches()]) == rest
    from_the_start = contents(make(5, updates_per_round=2).batches())
    assert from_the_start[5:] == rest[:7]
    assert from_the_start[:7] != rest[:7]


def test_rows_that_were_reordered_in_place_are_noticed_when_a_run_goes_on(make, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "Hi"}]
    lines = [json.dumps({"id": str(i), "messages": messages, "tools": [], "gold": []}) for i in range(5)]

    def load(lines):
        path.write_text("\n".join(lines))
        data = make(5)
        data.train_tasks = JsonlDataset(path)
        return data

    state = load(lines).state_dict()
    load(lines).load_state_dict(state)
    assert capsys.readouterr().out == ""
    load(lines[::-1]).load_state_dict(state)
    assert capsys.readouterr().out == (
        f"changed since the checkpoint: data.train ({path}) has the same rows in another order\n"
    )
    load(lines).load_state_dict(
        {name: value for name, value in state.items() if name != "rows"}
    )  # of an earlier version
    assert capsys.readouterr().out == ""


def test_evaluation_leaves_the_training_stream_alone(make):
    data, undisturbed = make(5), make(5)
    stream = data.batches()
    first = next(stream)
    state = data.stream.generator.get_state()
    trajectories = data.evaluate([data.train_tasks[i] for i in range(3)])
    assert [t.task.id for t in trajectories] == ["t0", "t1", "t2"]
    assert torch.equal(data.stream.generator.get_state(), state)
    assert contents([first, *stream]) == contents(undisturbed.batches())


def test_a_prompt_that_is_too_long_fails_in_evaluation_and_is_left_out_of_training(make):
    data = make(2, length=50)
    short, long = make(1).train_tasks[0], data.train_tasks[1]
    trajectories = data.evaluate([long, short])
    assert [t.task.id for t in trajectories] == ["t1", "t0"]
    assert trajectories[0].plan.error == "prompt too long"
    metric = ToolUse()
    metric.update(trajectories)
    assert metric.compute()["task/success"] == 0
    assert metric.counts[0] == 2
    assert data.evaluate([long])[0].plan.error == "prompt too long"
    assert [batch.groups for batch in data.batches()] == [[], []]


def test_sizes_below_one_are_refused(make):
    for option in ("tasks_per_round", "updates_per_round", "eval_batch_size"):
        with pytest.raises(ValueError, match=option):
            make(**{option: 0})
    with pytest.raises(ValueError, match="warm_start_rounds"):
        make(warm_start_rounds=-1)


def test_a_reward_of_turns_that_nothing_would_use_is_refused():
    with pytest.raises(ValueError, match=r"nothing would use data\.turn_reward: leave that out"):
        RolloutDataModule(ToolWorld(size=2), RecordedEnvironment(), turn_reward=TurnReward())


def test_a_group_of_one_is_refused_only_where_it_would_have_to_learn(make):
    one_plan = RolloutConfig(planner_group_size=1)
    with pytest.raises(ConfigError, match=r"data\.rollout\.planner_group_size is 1"):
        make(rollout=one_plan).setup("fit")
    make(rollout=one_plan, schedule=ExecutorOnly()).setup("fit")
    make(rollout=one_plan, test={"test": ToolWorld("test", 1)}).setup("test")


@pytest.mark.parametrize("schedule", [Alternate(), Ratio(4, 1)], ids=["alternate", "ratio"])
def test_the_trainer_trains_on_every_batch_of_every_epoch(tiny_model, tmp_path, make, schedule):
    """Epochs differ in length where a schedule does not fit into them: with Ratio(4, 1) the second is longer."""

    class Seen(Callback):
        def __init__(self):
            self.batches = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.batches.append((batch.role, requests_of([batch])))

    seen = Seen()
    data = make(5, schedule=schedule)
    data.trainer = None
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[seen],
    )
    trainer.fit(CAHLModule(PolicyConfig(model=str(tiny_model), lora_rank=2)), data)
    roles = [role for i in range(9) for role in schedule.roles(i)]
    assert [role for role, _ in seen.batches] == roles
    assert trainer.global_step == len(roles)


# --- without a planner -------------------------------------------------------------------------------------------------


def test_without_a_planner_the_executor_alone_steps_and_is_asked(make):
    engine, reward = Asked(), Silent()
    data = make(5, engine=engine, single_level=True, turn_reward=reward)
    assert isinstance(data.schedule, ExecutorOnly)
    assert isinstance(make(5).schedule, Alternate)
    batches = list(data.batches())
    assert [batch.role for batch in batches] == ["executor"] * 3
    assert reward.rounds == [0, 1, 2]
    assert {(role, samples) for role, samples, *_ in engine.requests} == {("executor", 2)}
    first = [data.builder.single(batches[0].trajectories[i].task) for i in range(2)]
    assert engine.requests[0][2] == first
    assert batches[0].metrics["executor/reward/mean"] == 0.25
    assert "planner/reward/mean" not in batches[0].metrics


def test_the_first_rounds_without_a_planner_imitate_its_turns(make):
    data = make(4, single_level=True, warm_start_rounds=1)
    warm, then = data.batches()
    assert (warm.objective, then.objective) == ("supervised", "grpo")
    texts = [data.builder.decode(group.completion_ids[0].tolist()) for group in warm.groups]
    assert texts == ["<answer>No tool is needed here.</answer>"] * 2


@pytest.mark.parametrize("schedule", [Alternate(), PlannerOnly(), Ratio(1, 5)], ids=lambda s: type(s).__name__)
def test_steps_of_a_planner_that_is_not_there_are_refused(make, schedule):
    with pytest.raises(ConfigError, match=r"^data\.single_level trains the executor alone, but .*ExecutorOnly$"):
        make(single_level=True, schedule=schedule).setup("fit")
    make(single_level=True, schedule=schedule, test={"test": ToolWorld("test", 1)}).setup("test")  # nobody steps
    make(single_level=True, rollout=RolloutConfig(planner_group_size=1)).setup("fit")
    with pytest.raises(ConfigError, match=r"data\.rollout\.executor_group_size is 1"):
        make(single_level=True, rollout=RolloutConfig(executor_group_size=1)).setup("fit")


def test_training_refuses_what_it_cannot_sample_by_and_evaluations_take_it(make):
    part = RolloutConfig(planner=Sampling(top_p=0.9))
    with pytest.raises(ConfigError, match=r"data\.rollout\.planner\.top_p is 0\.9"):
        make(rollout=part).setup("fit")
    make(rollout=part, test={"test": ToolWorld("test", 1)}).setup("test")
    make(rollout=part, warm_start_rounds=100).setup("fit")  # nothing is sampled
    longer = make(rollout=part, warm_start_rounds=3)  # all of the first epoch, and nothing of the second
    longer.setup("fit")
    for trainer in ({"max_epochs": 2}, {"max_epochs": -1, "max_steps": 7}, {"max_epochs": -1}):
        vars(longer.trainer).update(trainer)
        with pytest.raises(ConfigError, match=r"data\.rollout\.planner\.top_p is 0\.9"):
            longer.setup("fit")
    for allowed, stage in ((False, "test"), (True, "fit")):
        inference = InferenceConfig(constrained=True, constrained_in_fit=allowed)
        make(inference=inference, test={"test": ToolWorld("test", 1)}).setup(stage)
    with pytest.raises(ConfigError, match=r"data\.inference\.constrained holds at inference alone"):
        make(inference=InferenceConfig(constrained=True)).setup("fit")


@pytest.mark.parametrize(
    ("trained_without", "inference", "roles"),
    [
        (False, InferenceConfig(), ["planner"]),
        (False, InferenceConfig(single_level=True), ["executor"] * 2),
        (True, InferenceConfig(), ["executor"] * 2),
        (True, InferenceConfig(single_level=False), ["planner"]),
        (False, InferenceConfig(plans=3), ["planner"] * 3),
    ],
)
def test_how_episodes_are_made_at_test_time(make, trained_without, inference, roles):
    """What is babbled is no plan, so that no executor follows a planner; without one there are two turns."""
    engine = Asked()
    rollout = RolloutConfig(2, 2, max_steps=2, planner=Sampling(max_new_tokens=3), executor=Sampling(max_new_tokens=3))
    data = make(3, engine=engine, single_level=trained_without, inference=inference, rollout=rollout)
    tasks = [data.train_tasks[i] for i in range(3)]
    trajectories = data.evaluate(tasks)
    assert [role for role, *_ in engine.requests] == roles
    assert {samples for _, samples, *_ in engine.requests} == {1}
    temperatures = [sampling.temperature for *_, sampling in engine.requests]
    assert temperatures == [0.0, 1.0, 1.0][: len(roles)] if roles[0] == "planner" else [0.0, 0.0]
    assert [t.task for t in trajectories] == tasks
    prompt = data.builder.single if roles[0] == "executor" else data.builder.planner
    assert engine.requests[0][2] == [prompt(task) for task in tasks]
    assert all((t.plan == Plan()) == (roles[0] == "executor") for t in trajectories)
    assert data.evaluated_tokens == 3 * 3 * len(roles)


@pytest.mark.parametrize("choice", [{"plans": 3}, {"replans": 1}])
def test_plans_of_no_planner_are_refused(make, choice):
    with pytest.raises(
        ValueError, match=r"^data\.inference has plans or replans, which episodes without a planner have not"
    ):
        make(single_level=True, inference=InferenceConfig(**choice))
    with pytest.raises(ValueError, match=r"^data\.inference has plans or replans"):
        make(inference=InferenceConfig(single_level=True, **choice))
    make(single_level=True, inference=InferenceConfig(single_level=False, **choice))


def test_further_plans_in_training_need_plans_and_gold_calls(make):
    again = RolloutConfig(2, 2, replans=1)
    make(rollout=again).setup("fit")
    with pytest.raises(
        ConfigError, match=r"data\.rollout\.replans is above 0, but data\.single_level trains without plans"
    ):
        make(rollout=again, single_level=True).setup("fit")
    for key, reward in {"planner_reward": OutcomePlannerReward(), "executor_reward": OutcomeExecutorReward()}.items():
        with pytest.raises(ConfigError, match=rf"but {type(reward).__name__} judges whole episodes by their outcome"):
            make(rollout=again, **{key: reward}).setup("fit")


def test_a_stop_while_sampling_saves_the_sampler_as_it_was(make, monkeypatch):
    data = make(4, sampler=RewardSampler())

    def stopped(result):
        raise KeyboardInterrupt

    monkeypatch.setattr("cahl_pl.rollout.training_round.round_metrics", stopped)
    with pytest.raises(KeyboardInterrupt):
        next(data.batches())
    state = data.state_dict()
    assert state["round"] == 0
    assert not state["sampler"]["seen"].any()


def test_a_model_trained_with_a_planner_is_tested_without_one_and_trains_on(make):
    data, undisturbed = make(5, inference=InferenceConfig(single_level=True)), make(5)
    stream = data.batches()
    first = next(stream)
    (trajectory,) = data.evaluate([data.train_tasks[0]])
    assert trajectory.plan == Plan()
    assert contents([first, *stream]) == contents(undisturbed.batches())


@pytest.mark.parametrize("single_level", [False, True])
def test_an_activated_adapter_is_not_tested_in_other_words(make, make_policy, single_level):
    activated = make_policy(adapter="alora")
    data = make(single_level=single_level, inference=InferenceConfig(single_level=not single_level))
    data.trainer.lightning_module.policy = activated
    with pytest.raises(
        ConfigError, match=r"^data\.inference\.single_level differs .*: use --model\.policy\.adapter lora$"
    ):
        data.evaluate([data.train_tasks[0]])
    for same in (None, single_level):
        data = make(single_level=single_level, inference=InferenceConfig(single_level=same))
        data.trainer.lightning_module.policy = activated
        words = data.builder.invocation("executor", single_level)
        data.batches()
        assert activated.invocation["executor"] == words
    assert data.builder.invocation("executor", not single_level) != words


def test_what_is_written_into_one_configuration_stays_there():
    """The defaults of the constructor are one object for all of them."""
    first = RolloutDataModule(ToolWorld(size=2), RecordedEnvironment())
    first.rollout.config.branching = "trajectory"
    first.rollout.config.planner.max_new_tokens = 7
    other = RolloutDataModule(ToolWorld(size=2), RecordedEnvironment()).rollout.config
    assert (other.branching, other.planner.max_new_tokens) == ("step", 512)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_task_is_tested_once_by_one_process(make, processes):
    """Seven tasks, in batches of two; a process that has none has an empty batch."""
    found = []
    for rank in range(processes):
        data = make(7, eval_batch_size=2)
        data.test_tasks = {"a": data.train_tasks, "none": type(data.train_tasks.source)(0)}
        data.trainer.global_rank, data.trainer.world_size = rank, processes
        batches, none = map(list, data.test_dataloader())
        assert none == []
        assert len(batches) == max(1, -(-len(range(rank, 7, processes)) // 2))
        found.append([task.id for batch in batches for task in batch])
    assert found == [[f"t{i}" for i in range(rank, 7, processes)] for rank in range(processes)]
