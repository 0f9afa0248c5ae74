"""A reward of a user's own that gives what is no reward, or raises: one sentence with its class, the task and what it gave."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cahl_pl.errors import ConfigError, DataError, Interrupted
from cahl_pl.rewards.base import BaseReward, checked_total, components_of, weights_of
from cahl_pl.rewards.planner import PlannerReward
from cahl_pl.types import Message, Task

TASK = Task("trip-1", (Message("user", "q"),), ())


class Mine(BaseReward):
    """Gives, or raises, what it is told to."""

    def __init__(self, components=None, total=1.0):
        self.given = {"right": 1.0} if components is None else components, total

    def components(self, *output):
        return self._do(self.given[0])

    def total(self, components):
        return self._do(self.given[1])

    @staticmethod
    def _do(what):
        if isinstance(what, BaseException):
            raise what
        return what


def told(reward):
    with pytest.raises(ConfigError) as raised:
        checked_total(reward, components_of(reward, TASK), TASK)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"the reward {__name__}.Mine gives ")


A_MAPPING = "as its components for an output of task 'trip-1': let it give a mapping of tags to numbers, such as {'right': 1.0}"
A_NUMBER = "for an output of task 'trip-1': let it give a finite number"


@pytest.mark.parametrize("value", [[1.0], 1.0, "right", (("right", 1.0),), {1: 1.0}, torch.ones(2), {None: 1}])
def test_components_that_are_no_mapping_are_refused(value):
    assert told(Mine(value)) == f"{' '.join(repr(value).split())} {A_MAPPING}"


def test_nothing_is_no_mapping():
    class Empty(Mine):
        def components(self, *output):
            return None

    assert told(Empty()).endswith(f"gives None {A_MAPPING}")


NO_NUMBERS = [float("nan"), float("inf"), "1.0", b"1", [1.0], 1j, torch.ones(2), torch.tensor(float("nan")), np.ones((2, 1))]


@pytest.mark.parametrize("value", [*NO_NUMBERS, {"a": 1}, object])
def test_what_is_no_number_is_refused(value):
    shown = " ".join(repr(value).split())
    assert told(Mine(total=value)) == f"{shown} as its total {A_NUMBER}"
    assert told(Mine({"right": value})) == f"{shown} as its component 'right' {A_NUMBER}"


def test_a_total_has_to_be_there():
    assert told(Mine(total=None)) == f"None as its total {A_NUMBER}"


@pytest.mark.parametrize("value", [1e39, -1e16, 10**400])
def test_what_does_not_fit_into_the_comparison_is_refused(value):
    """1e39 is infinite in float32, as which rewards are compared."""
    wanted = "a finite number" if value > 1e100 else "a number from -1e+15 to 1e+15"
    assert told(Mine(total=value)).endswith(f"let it give {wanted}")


NUMBERS = [1, True, 0.5, np.float32(0.5), np.int64(2), torch.tensor(0.5), torch.ones(1), Fraction(1, 2)]


@pytest.mark.parametrize("value", NUMBERS)
def test_what_is_a_number_becomes_one_of_pythons(value):
    reward = Mine({"right": value, "undefined": None}, value)
    components = components_of(reward, TASK)
    assert components == {"right": float(value), "undefined": None}
    assert type(components["right"]) is float
    assert type(checked_total(reward, components, TASK)) is float


def test_tags_are_the_same_every_time():
    reward = Mine({"right": 1.0})
    components_of(reward, TASK)
    reward.given = {"wrong": 1.0}, 1.0
    assert told(reward).endswith(
        "let it give the same tags for every output, here right, None where undefined"
    )


RAISED = [ValueError("no\nsuch city"), KeyError("right"), StopIteration(), SystemExit(3), AssertionError()]


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("where", ["components", "total"])
def test_what_it_raises_is_told(error, where):
    said = told(Mine(**{where: error}))
    text = " ".join(str(error).split())
    start = f"{__name__}.Mine.{where} raised {type(error).__name__}{text and f' ({text})'} for an output of task 'trip-1'"
    assert said.startswith(f"{start} in {__file__}, line ")
    assert said.endswith(": correct it")


@pytest.mark.parametrize("error", [Interrupted(143), KeyboardInterrupt(), DataError("mine")])
def test_what_is_meant_for_the_run_passes(error):
    with pytest.raises(type(error)) as raised:
        components_of(Mine(error), TASK)
    assert raised.value is error


def test_a_fault_of_a_reward_of_this_package_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(PlannerReward, "components", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        components_of(PlannerReward(), TASK)


@pytest.mark.parametrize("weights", [[1.0], {"right": float("nan")}, {"right": "1"}, 2.0, None])
def test_weights_that_are_none_are_refused(weights):
    said = r"^the attribute weights of the reward types.SimpleNamespace is .*: give a mapping of its components' tags"
    with pytest.raises(ConfigError, match=said):
        weights_of(SimpleNamespace(weights=weights))
    assert weights_of(SimpleNamespace()) == {}
    assert weights_of(PlannerReward()) == {"param": 0.3, "exe": 0.7}
