"""Classes of a user's own whose constructors raise: one sentence with the class, what it raised, and where."""

from __future__ import annotations

import re

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from cahl_pl.datasets.base import TaskSource
from cahl_pl.environments import RecordedEnvironment
from cahl_pl.errors import DataError
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.schedules import Alternate

ERRORS = {
    "value": ValueError("above\nzero"),
    "key": KeyError("town"),
    "type": TypeError("no"),
    "none": RuntimeError(),
    "index": IndexError("list index out of range"),
    "ours": DataError("rows.csv: not JSON"),
}


class Fails:
    def __init__(self, kind: str = "value", **more: str) -> None:
        super().__init__(**more)
        raise ERRORS[kind]


class OwnCallback(Fails, Callback):
    def __init__(self, kind: str = "value") -> None:
        super().__init__(kind)


class OwnLogger(Fails, TensorBoardLogger):
    def __init__(self, save_dir: str = "runs", kind: str = "value") -> None:
        super().__init__(kind, save_dir=save_dir)


class OwnReward(Fails, PlannerReward):
    def __init__(self, kind: str = "value") -> None:
        super().__init__(kind)


class OwnSchedule(Fails, Alternate):
    def __init__(self, kind: str = "value") -> None:
        super().__init__(kind)


class OwnEnvironment(Fails, RecordedEnvironment):
    def __init__(self, kind: str = "value") -> None:
        super().__init__(kind)


class OwnSource(Fails, TaskSource):
    def __init__(self, kind: str = "value") -> None:
        super().__init__(kind)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise IndexError(index)


PLACES = {
    "trainer.callbacks": OwnCallback,
    "trainer.logger": OwnLogger,
    "data.planner_reward": OwnReward,
    "data.schedule": OwnSchedule,
    "data.environment": OwnEnvironment,
    "data.train": OwnSource,
    "data.validation": OwnSource,
}


@pytest.mark.parametrize("key", PLACES)
def test_the_class_and_what_it_raised_are_told(fail, key):
    name = f"{__name__}.{PLACES[key].__name__}"
    said = fail(f"--{key}", name)
    line = rf"in {re.escape(__file__)}, line \d+: correct it, or its init_args"
    assert re.fullmatch(
        rf"error: {re.escape(name)} cannot be made: its constructor raised ValueError \(above zero\) {line}", said
    )


@pytest.mark.parametrize("kind", ["key", "type", "none", "index"])
@pytest.mark.parametrize("key", ["trainer.callbacks", "data.train"])
def test_whatever_it_raises(fail, key, kind):
    said = fail(f"--{key}", f"{__name__}.{PLACES[key].__name__}", f"--{key}.kind", kind)
    text = str(ERRORS[kind])
    assert f"its constructor raised {type(ERRORS[kind]).__name__}{text and f' ({text})'} in {__file__}, line " in said


@pytest.mark.parametrize("key", ["trainer.callbacks", "data.validation"])
def test_a_sentence_of_its_own_is_the_sentence(fail, key):
    said = fail(f"--{key}", f"{__name__}.{PLACES[key].__name__}", f"--{key}.kind", "ours")
    assert said == "error: rows.csv: not JSON"


def test_the_line_of_the_configuration_is_named(fail, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"data:\n  planner_reward:\n    class_path: {__name__}.OwnReward\n")
    assert fail("-c", str(path)).startswith(f"error: {path}, line 3: {__name__}.OwnReward cannot be made: ")


def test_a_class_of_a_library_is_named(fail):
    key, name = "trainer.callbacks", "lightning.pytorch.callbacks.EarlyStopping"
    said = fail(f"--{key}", name, f"--{key}.monitor", "x", f"--{key}.mode", "up")
    made = "lightning.pytorch.callbacks.early_stopping.EarlyStopping"
    assert said.startswith(f"error: {made} cannot be made: its constructor raised MisconfigurationException (")
    assert said.endswith(": correct its init_args")
