"""The stream of role batches: its length, which tasks it holds, where it resumes, and evaluation beside it."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.datasets.base import TaskSource
from cahl_pl.engines.base import Completion, Engine, Sampling
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError
from cahl_pl.metrics import ToolUse
from cahl_pl.module import CAHLModule
from cahl_pl.policy import PolicyConfig
from cahl_pl.prompts import PromptConfig
from cahl_pl.rollout import RolloutConfig
from cahl_pl.schedules import Alternate, ExecutorOnly, PlannerOnly, Ratio
from cahl_pl.types import Message, Task

SCHEDULES = [Alternate(), Alternate("executor"), PlannerOnly(), ExecutorOnly(), Ratio(2, 3), Ratio(3, 1)]


class Requests(TaskSource):
    """`size` requests without tools."""

    def __init__(self, size, length=1):
        self.size, self.length = size, length

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return Task(f"t{index}", (Message("user", f"request {index} " * self.length),), ())


class Babble(Engine):
    """Random ids, as many as the length limit says."""

    def generate(self, policy, role, prompts, num_samples, sampling, generator):
        def completion():
            ids = torch.randint(3, 200, (sampling.max_new_tokens,), generator=generator)
            return Completion(ids, torch.zeros(len(ids)), ended=False)

        return [[completion() for _ in range(num_samples)] for _ in prompts]


@pytest.fixture
def make(policy):
    """A data module on a policy that does not learn, without a trainer."""

    def build(size=5, length=1, **options):
        sampling = Sampling(max_new_tokens=3)
        options = {
            "rollout": RolloutConfig(2, 2, max_prompt_tokens=300, planner=sampling, executor=sampling),
            "prompts": PromptConfig(system="", planner="", executor="{subtask}"),
            "engine": Babble(),
            "tasks_per_round": 2,
            **options,
        }
        data = RolloutDataModule(Requests(size, length), ExecutableEnvironment(lambda state: {}), **options)
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(policy=policy), global_rank=0, world_size=1)
        return data

    return build


def requests_of(batches):
    """The requests of each round, without the repetitions of its plans; they come with its first batch."""
    return [list(dict.fromkeys(t.task.id for t in b.trajectories)) for b in batches if b.trajectories is not None]


def contents(batches):
    """Everything of the batches that training depends on, as plain values that can be compared."""
    return [
        (
            batch.role,
            batch.update,
            [group.prompt_ids.tolist() for group in batch.groups],
            [ids.tolist() for group in batch.groups for ids in group.completion_ids],
        )
        for batch in batches
    ]


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
        assert (data.epoch, data.round, data.pending) == (epoch + 1, 0, [])


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


def test_evaluation_leaves_the_training_stream_alone(make):
    data, undisturbed = make(5), make(5)
    stream = data.batches()
    first = next(stream)
    state = data.generator.get_state()
    trajectories = data.evaluate([data.train_tasks[i] for i in range(3)])
    assert [t.task.id for t in trajectories] == ["t0", "t1", "t2"]
    assert torch.equal(data.generator.get_state(), state)
    assert contents([first, *stream]) == contents(undisturbed.batches())


def test_a_prompt_that_is_too_long_fails_in_evaluation_and_is_left_out_of_training(make):
    data = make(2, length=50)
    short, long = Requests(1)[0], data.train_tasks[1]
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


def test_a_group_of_one_is_refused_only_where_it_would_have_to_learn(make):
    one_plan = RolloutConfig(planner_group_size=1)
    with pytest.raises(ConfigError, match=r"data\.rollout\.planner_group_size is 1"):
        make(rollout=one_plan).setup("fit")
    make(rollout=one_plan, schedule=ExecutorOnly()).setup("fit")
    make(rollout=one_plan).setup("test")


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
