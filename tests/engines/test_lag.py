"""Sampling while training: who samples what with which adapters, what a stopped run does again, and what is refused."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
import zlib
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from cahl_pl.callbacks import Checkpoints
from cahl_pl.datamodule import RolloutDataModule
from cahl_pl.engines import Sampling, ServerEngine, TransformersEngine
from cahl_pl.environments import ExecutableEnvironment
from cahl_pl.errors import ConfigError, StaleBatchError
from cahl_pl.grpo.config import GRPOConfig
from cahl_pl.module import CAHLModule
from cahl_pl.policy.config import PolicyConfig
from cahl_pl.policy.saved_adapters import write_adapter
from cahl_pl.rewards.base import BaseExecutorReward, BasePlannerReward
from cahl_pl.rollout.ahead import check_lag
from cahl_pl.rollout.config import RolloutConfig
from cahl_pl.sampling import RewardSampler
from cahl_pl.toolworld import ToolWorld, toolkit
from cahl_pl.toolworld.prompts import PROMPTS
from cahl_pl.types import ROLES, Action, Plan, SubTask, ToolCall


class Length(BasePlannerReward, BaseExecutorReward):
    """Pays for the number of characters, in another way each round."""

    def __init__(self):
        self.round = -1
        self.scored = []

    def start_round(self, index):
        self.round = index

    def components(self, *args):
        text = args[1][0].plan_text if len(args) == 2 else args[0].text
        self.scored.append(self.round)  # the copy's is the same list
        return {"length": len(text) % 7 / 7 + self.round / 100}

    def total(self, components):
        return components["length"]


class Watch(Callback):
    """Notes, before each step, the batch and the policy that meets it."""

    def __init__(self, during=lambda index: None):
        self.rows = []
        self.rounds = []  # what the rewards of training say
        self.during = during

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        data = trainer.datamodule
        ids = str([ids.tolist() for group in batch.groups for ids in group.completion_ids])
        version = pl_module.policy.version[batch.role]
        self.rows.append((batch.role, batch.version, batch.lag, version, zlib.crc32(ids.encode())))
        self.rounds.append(data.reward_of(batch.role).round)
        self.during(len(self.rows) - 1)


class Run:
    """A run on servers: `fit` trains it to a step, from a checkpoint or the beginning."""

    def __init__(self, engine, model, folder, lag=1, callbacks=(), replans=0, **settings):
        seed_everything(3, verbose=False)
        self.folder = folder
        self.module = CAHLModule(
            PolicyConfig(model=str(model), lora_rank=4, lora_alpha=8),
            GRPOConfig(importance="token_truncate", pool_equal_plans=False),
        )
        sampling = Sampling(max_new_tokens=6)
        reward = Length()
        self.data = RolloutDataModule(
            ToolWorld(size=5),
            ExecutableEnvironment(toolkit),
            **{"validation": None, **settings},
            engine=engine,
            prompts=PROMPTS,
            planner_reward=reward,
            executor_reward=reward,
            rollout=RolloutConfig(2, 2, planner=sampling, executor=sampling, replans=replans),
            sampler=RewardSampler(),
            tasks_per_round=2,  # three rounds an epoch, the last one of one task
            lag=lag,
        )
        self.watch = Watch()
        self.callbacks = [self.watch, *callbacks, Checkpoints(every_n_steps=100)]

    def fit(self, steps, checkpoint=None, **settings):
        trainer = Trainer(
            default_root_dir=self.folder,
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=self.callbacks,
            num_sanity_val_steps=0,
            **{"limit_val_batches": 0, **settings},
        )
        trainer.fit(self.module, self.data, ckpt_path=checkpoint)
        self.metrics = trainer.callback_metrics
        return self

    @property
    def adapters(self):
        return torch.cat([p.detach().flatten() for role in ROLES for p in self.module.policy.parameters_of(role)])


@pytest.fixture(autouse=True)
def _every_text_is_a_plan(monkeypatch):
    monkeypatch.setattr("cahl_pl.rollout.two_level.parse_plan", lambda text: Plan((SubTask("do it", "tool"),)))


@pytest.fixture
def run(tiny_model, tmp_path, stub):
    """Makes runs, each in a folder of its own, on one server unless there are others."""
    one = stub()

    def make(name, stubs=(one,), **settings):
        folder = tmp_path / name
        retries = settings.pop("retries", 8)
        engine = ServerEngine([server.url for server in stubs], str(folder / "adapters"), retries=retries)
        return Run(engine, tiny_model, folder, **settings)

    make.server = one
    return make


def checkpoint_of(run, step):
    (path,) = (run.folder / "checkpoints").glob(f"step-{step:06d}.ckpt")
    return path


def digest(policy, role, folder):
    """By which the stub tells adapters apart."""
    folder = write_adapter(policy, role, folder)
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_each_round_is_sampled_by_the_policy_before_the_updates_on_the_round_before(run):
    done = run("lag").fit(8)
    assert [row[:4] for row in done.watch.rows] == [
        # role, version that sampled, steps of the role meanwhile, version that is trained
        ("planner", 0, 0, 0),
        ("executor", 0, 0, 0),
        ("planner", 0, 1, 1),
        ("executor", 0, 1, 1),
        ("planner", 1, 1, 2),
        ("executor", 1, 1, 2),
        ("planner", 2, 1, 3),
        ("executor", 2, 1, 3),
    ]
    assert done.metrics["planner/lag"] == done.metrics["executor/lag"] == 1
    assert done.watch.rounds == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(set(done.data.rollout.planner_reward.scored)) == [0, 1, 2, 3]  # a round is scored by its own rewards
    names = list(dict.fromkeys(body["model"] for body in run.server.bodies))
    assert len(names) == 6  # rounds 0 and 1 share theirs; round 4, which no step would use, is not sampled


def test_adapters_that_sampled_are_those_that_the_batch_says(run, tmp_path):
    """The digests that the server knows are compared with those of the policy at each version."""
    at_version = {}

    def note(index):
        policy = done.module.policy
        at_version.update({(role, policy.version[role]): digest(policy, role, tmp_path / "own") for role in ROLES})

    done = run("lag")
    done.watch.during = note
    load = run.server.adapters
    seen = []
    answer = run.server._complete
    run.server._complete = lambda body: (seen.append((body["model"].split("-")[0], load[body["model"]])), answer(body))[
        1
    ]
    done.fit(8)
    order = list(dict.fromkeys(seen))
    for role in ROLES:
        assert [name for who, name in order if who == role] == [at_version[role, version] for version in range(3)]


def test_without_lag_rounds_are_sampled_by_the_policy_that_learns_from_them(run):
    done = run("none", lag=0).fit(4)
    assert [row[1:4] for row in done.watch.rows] == [(0, 0, 0), (0, 0, 0), (1, 0, 1), (1, 0, 1)]
    assert "planner/lag" not in done.metrics


@pytest.mark.parametrize(("lag", "overlaps"), [(0, False), (1, True)])
def test_a_round_is_sampled_while_the_one_before_is_trained_on(run, lag, overlaps):
    """The first step waits until the server has more to answer than its round has; without lag, in vain."""
    seen = []

    def wait(index):
        if index == 0:
            before, until = run.server.answered, time.monotonic() + (20 if overlaps else 1)
            while run.server.answered == before and time.monotonic() < until:
                time.sleep(0.01)
            seen.append(run.server.answered > before)

    done = run("lag", lag=lag)
    done.watch.during = wait
    done.fit(4)
    assert seen == [overlaps]


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_a_stopped_run_is_the_one_that_was_not_stopped(run, stop):
    """Stopped in the middle of a round, between the rounds of two epochs, and with a round of the next epoch begun."""
    whole = run("whole").fit(10)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == stop:
                trainer.datamodule.stream.interruption = ConfigError("stopped")

    with pytest.raises(ConfigError, match="stopped"):
        run("stopped", callbacks=[Stop()]).fit(10)
    resumed = run("stopped")
    resumed.fit(10, checkpoint_of(resumed, stop))
    assert resumed.watch.rows == whole.watch.rows[stop:]
    assert torch.equal(resumed.adapters, whole.adapters)


@pytest.mark.parametrize("settings", [{"lag": 0}, {"lag": 1}, {"lag": 1, "refills_per_round": 1}])
def test_further_plans_are_sampled_ahead_too_and_again_after_a_stop(run, settings, monkeypatch):
    """Every call fails here, since no tool has such a name: each request is planned again."""
    monkeypatch.setattr("cahl_pl.rollout.calls.parse_action", lambda text: Action(ToolCall("missing", {})))
    whole = run("whole", replans=1, **settings).fit(6)
    assert whole.metrics["replan/groups"] >= 1
    first = run("stopped", replans=1, **settings).fit(3)
    resumed = run("stopped", replans=1, **settings).fit(6, checkpoint_of(first, 3))
    assert resumed.watch.rows == whole.watch.rows[3:]
    assert torch.equal(resumed.adapters, whole.adapters)


def test_a_run_whose_servers_died_in_a_round_ahead_goes_on_as_if_they_had_not(run, stub):
    whole = run("whole").fit(10)
    dying = stub()

    class Kill(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 5:
                dying.dies_after = dying.answered + 1

    dying.seconds = 0.05
    with pytest.raises(ConfigError, match=r"gave no answer .* --ckpt_path last"):
        run("died", (dying,), callbacks=[Kill()], retries=0).fit(10)
    (path,) = run("died").folder.glob("checkpoints/*.ckpt")
    dying.dies_after = None
    resumed = run("died", (dying, run.server)).fit(10, path)
    assert resumed.watch.rows == whole.watch.rows[-len(resumed.watch.rows) :]
    assert torch.equal(resumed.adapters, whole.adapters)


def test_a_signal_while_the_trainer_waits_for_a_round_is_heard_at_once(run, stub):
    whole = run("whole").fit(6)
    slow = stub()

    class Signal(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 2:  # the round that is begun next takes long
                slow.seconds = 3.0
            if trainer.global_step == 4:  # and is waited for
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(SystemExit, match="143"):
        run("stopped", (slow,), callbacks=[Signal()]).fit(6)
    slow.seconds = 0.0
    resumed = run("stopped", (slow,))
    resumed.fit(6, checkpoint_of(resumed, 4))
    assert resumed.watch.rows == whole.watch.rows[4:]
    assert torch.equal(resumed.adapters, whole.adapters)


def test_an_evaluation_in_between_is_of_the_present_adapters_and_changes_nothing(run, tmp_path):
    whole = run("whole").fit(6)
    expected = []

    class Evaluate(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            policy = module.policy
            now = {role: digest(policy, role, tmp_path / "own") for role in ROLES}
            before = len(run.server.bodies)
            trainer.datamodule.evaluate([ToolWorld(size=1, seed=5)[0]])
            asked = {
                (body["model"].split("-")[0], run.server.adapters[body["model"]])
                for body in run.server.bodies[before:]
                if body["temperature"] == 0
            }
            expected.append(asked == set(now.items()))

    watched = run("watched", callbacks=[Evaluate()]).fit(6)
    assert expected == [True] * 6
    assert watched.watch.rows == whole.watch.rows
    assert torch.equal(watched.adapters, whole.adapters)


def test_two_servers_give_the_run_of_one(run, stub):
    whole = run("whole").fit(6)
    slow = stub(seconds=0.05)
    pair = run("pair", (slow, run.server)).fit(6)
    assert slow.answered
    assert torch.equal(pair.adapters, whole.adapters)


def test_a_warm_start_is_not_sampled_ahead_of(run):
    done = run("warm", warm_start_rounds=1).fit(6)
    assert [row[1:4] for row in done.watch.rows] == [(0, 0, 0), (0, 0, 0), (1, 0, 1), (1, 0, 1), (1, 1, 2), (1, 1, 2)]


def test_several_updates_on_a_batch_make_a_longer_lag(run):
    done = run("twice", updates_per_round=2).fit(8)
    assert [row[1:4] for row in done.watch.rows][4:] == [(0, 2, 2), (0, 2, 2), (0, 2, 3), (0, 2, 3)]
    assert done.metrics["executor/lag"] == 3


def test_a_batch_of_another_lag_is_refused(run):
    done = run("stale")

    class Forge(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            batch.lag += batch_idx == 2

    done.callbacks.insert(0, Forge())
    with pytest.raises(StaleBatchError, match=r"version 0 \(lag 2, update 0 on it\) met version 1"):
        done.fit(4)


def test_a_run_goes_on_without_its_lag(run):
    """What was sampled ahead is sampled again, by the policy as it is."""
    first = run("run").fit(3)
    done = run("run", lag=0).fit(6, checkpoint_of(first, 3))
    assert [row[:4] for row in done.watch.rows] == [
        ("executor", 0, 1, 1),
        ("planner", 2, 0, 2),
        ("executor", 2, 0, 2),
    ]


def test_an_engine_of_this_process_is_refused(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match=r"TransformersEngine, samples in this process .*ServerEngine, or leave out"):
        Run(TransformersEngine(), tiny_model, tmp_path).fit(2)


def test_gradients_that_nothing_corrects_are_refused(run):
    done = run("uncorrected")
    done.module.grpo["executor"] = GRPOConfig()
    with pytest.raises(ConfigError, match=r"an older executor, .* add --model\.grpo\.importance token_truncate"):
        done.fit(2)


def test_processes_that_would_have_to_agree_within_a_round_are_refused():
    grpo = SimpleNamespace(correction=("sequence_mask", 3.0))
    with pytest.raises(ConfigError, match=r"refills_per_round is 2, for which the 4 processes .* leave out one"):
        check_lag({"planner": grpo}, ["planner"], 4, 2, False)
    check_lag({"planner": grpo}, ["planner"], 4, 0, False)
    check_lag({"planner": grpo}, ["planner"], 1, 2, False)


def test_a_reward_that_asks_the_model_here_is_refused(run):
    done = run("asks")
    done.data.rollout.planner_reward.reads_probabilities = True
    with pytest.raises(ConfigError, match=r"how likely its calls are, .* leave out w_prob, or data\.lag"):
        done.fit(2)


@pytest.mark.parametrize("lag", [-1, 2])
def test_other_lags_are_refused(run, lag):
    with pytest.raises(ValueError, match=r"data\.lag is .*: give 0, or 1"):
        run("other", lag=lag)
