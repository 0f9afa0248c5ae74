"""Faulty user-defined classes, misplaced values and impossible runs, one mistake each."""

from __future__ import annotations

from typing import Final

from tools.quality.mistakes_in_commands import FIT, GOOD, Mistake

M = Mistake
_CONSTRUCTOR: Final = """\
from lightning.pytorch import Callback
from cahl_pl.rewards.planner import PlannerReward

class Mine(Callback):
    def __init__(self, every: int = 0) -> None:
        raise ValueError("every has to be above 0")

class Reward(PlannerReward):
    def __init__(self, table: str = "table.json") -> None:
        super().__init__()
        self.table = open(table)
"""
_SOURCE: Final = """\
from cahl_pl.datasets.base import TaskSource
from cahl_pl.types import Message, Task

class Empty(TaskSource):
    def __len__(self):
        return 0
    def __getitem__(self, index):
        raise IndexError(index)

class Broken(Empty):
    def __len__(self):
        return self.rows
"""
_OWN: Final = {"own.py": _CONSTRUCTOR, "source.py": _SOURCE}

CLASSES: Final = (
    M(
        "a callback whose constructor raises",
        f"{FIT} --trainer.callbacks+=own.Mine",
        "own.Mine cannot be made: its constructor raised ValueError (every has to be above 0) in ",
        _OWN,
    ),
    M(
        "a reward that opens a file that is not there",
        f"{FIT} --data.planner_reward own.Reward",
        "own.Reward cannot be made: its constructor raised FileNotFoundError",
        _OWN,
    ),
    M(
        "a reward of the other role",
        f"{FIT} --data.planner_reward cahl_pl.rewards.ExecutorReward",
        "cahl_pl.rewards.ExecutorReward is no BasePlannerReward: name a class that is derived from it",
    ),
    M("a source without tasks", f"{FIT} --data.train source.Empty", "source.Empty has no tasks", _OWN),
    M(
        "a source whose length raises",
        f"{FIT} --data.train source.Broken",
        "source.Broken.__len__ raised AttributeError",
        _OWN,
    ),
    M(
        "a library's class with a wrong option",
        f"{FIT} --trainer.callbacks+=lightning.pytorch.callbacks.Timer --trainer.callbacks.duration soon",
        "cannot be made: its constructor raised MisconfigurationException",
    ),
)
VALUES: Final = (
    M("a file as a class", f"{FIT} --data.train rows.jsonl", "init_args: {path: rows.jsonl}}", GOOD),
    M("a file as a class, not there", f"{FIT} --data.train rowz.jsonl", "'rowz.jsonl' is none; what its class reads"),
    M(
        "a file as a class, in a file",
        "fit -c my.yaml",
        "my.yaml, line 2: --data.train takes the import path of a class",
        {**GOOD, "my.yaml": "data:\n  train: rows.jsonl\n"},
    ),
    M(
        "one class as the test sets",
        f"{FIT} -c my.yaml",
        "my.yaml, line 2: data.test is one class, and takes named sets",
        {"my.yaml": "data:\n  test:\n    class_path: cahl_pl.datasets.JsonlDataset\n    init_args: {path: a.jsonl}\n"},
    ),
    M(
        "a list as the test sets",
        f"{FIT} --data.test [rows.jsonl]",
        "data.test is a list, and takes named sets",
        GOOD,
    ),
    M(
        "an alias within its own value",
        "fit -c my.yaml",
        "my.yaml, line 1: what is anchored here (&NAME) holds itself",
        {"my.yaml": "data: &d\n  train: *d\n"},
    ),
    M(
        "nothing below a key",
        f"{FIT} -c my.yaml",
        "my.yaml, line 1: there is nothing below 'data'",
        {"my.yaml": "data:\ntrainer: {max_steps: 1}\n"},
    ),
    M(
        "a key one column off",
        f"{FIT} -c my.yaml",
        "my.yaml, line 3: the YAML cannot be read",
        {"my.yaml": "data:\n  seed: 1\n   lag: 0\n"},
    ),
    M("a configuration without -c", "fit quickstart", "'quickstart' belongs to no option: a configuration is given by -c"),
    M("-c without a configuration", "fit -c", "-c takes a configuration: a file, or the name of one that ships"),
    M("a rank of 0", f"{FIT} --model.policy.lora_rank 0", "model.policy.lora_rank is 0, so that adapters would change"),
    M("steps in words", f"{FIT} --trainer.max_steps ten", "trainer.max_steps: expected int but got ten"),
    M("a seed below 0", f"{FIT} --seed_everything -1", "seed_everything is -1: give a number from 0 to 4294967295"),
    M("more processes than cores", f"{FIT} --trainer.devices 999", "trainer.devices is 999: on a CPU that many processes"),
)
FILES: Final = (
    M("no such checkpoint", f"{FIT} --ckpt_path no.ckpt", "--ckpt_path names 'no.ckpt', which does not exist: give a"),
    M("rows as a checkpoint", f"{FIT} --ckpt_path rows.jsonl", "'rows.jsonl', which is no checkpoint of this trainer", GOOD),
    M("a folder as a checkpoint", f"{FIT} --ckpt_path .", "--ckpt_path names '.', which is a folder: give a checkpoint"),
    M("no such adapters", f"{FIT} --model.policy.adapters no", "model.policy.adapters names 'no', which does not exist"),
    M("a base that is no name", f"{FIT} --model.policy.model a/b/c", "which is no folder here and no id of the Hugging Face"),
    M("rows as a configuration", "fit -c rows.jsonl", "there is no configuration key id", GOOD),
    M("a run that is none", "report rows.jsonl", "there is no folder rows.jsonl: give that of a run", GOOD),
)

MISTAKES: Final = (*CLASSES, *VALUES, *FILES)
